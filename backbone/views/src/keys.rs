//! API keys: shown once, kept as a hash.

use events::Tenant;
use jiff::Timestamp;
use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::database::Views;
use crate::error::Error;
use crate::time::At;

/// A key as it is kept: all but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its identity, to revoke it by.
    pub id: Uuid,
    /// How its secret begins, so that people recognise it.
    pub prefix: String,
    /// Whose recordings it opens.
    pub tenant: Tenant,
    /// What people call it.
    pub name: String,
    /// Whether it also opens what is of the whole deployment: dead letters, queues, of all tenants.
    pub is_operator: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A key that was just made. The secret cannot be had again.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// What clients send: `vf_` and 256 random bits in hexadecimal.
    pub secret: String,
    /// The rest.
    pub key: ApiKey,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// How much of a secret is kept: the mark and 32 of its 256 bits.
const PREFIX_LEN: usize = 11;

impl Views {
    /// Makes a key for a tenant; `is_operator` says whether the deployment may be looked after with it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn create_key(&self, tenant: &Tenant, name: &str, is_operator: bool) -> Result<NewKey, Error> {
        let mut random = [0; 32];
        rand::rng().fill_bytes(&mut random);
        let secret = format!("vf_{}", hex::encode(random));
        let row = sqlx::query(
            "WITH owner AS (INSERT INTO control.tenants (tenant) VALUES ($2) \
                            ON CONFLICT (tenant) DO UPDATE SET tenant = excluded.tenant RETURNING tenant) \
             INSERT INTO control.api_keys (id, tenant, name, prefix, hash, operator) \
             SELECT $1, tenant, $3, $4, $5, $6 FROM owner RETURNING *",
        )
        .bind(Uuid::new_v4())
        .bind(tenant.as_str())
        .bind(name.replace('\0', " "))
        .bind(&secret[..PREFIX_LEN])
        .bind(hash(&secret))
        .bind(is_operator)
        .fetch_one(&self.pool)
        .await?;
        Ok(NewKey { secret, key: key(&row)? })
    }

    /// Returns all keys, revoked ones too, the oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn keys(&self) -> Result<Vec<ApiKey>, Error> {
        let sql = "SELECT * FROM control.api_keys ORDER BY created_at, id";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(key).collect()
    }

    /// Puts a key out of force; `false` where there is none in force with this id.
    ///
    /// # Errors
    /// What the database says.
    pub async fn revoke_key(&self, id: Uuid) -> Result<bool, Error> {
        let sql = "UPDATE control.api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL";
        Ok(sqlx::query(sql).bind(id).execute(&self.pool).await?.rows_affected() > 0)
    }

    /// Returns the key in force that has this secret.
    ///
    /// # Errors
    /// What the database says.
    pub async fn find_key(&self, secret: &str) -> Result<Option<ApiKey>, Error> {
        let sql = "SELECT * FROM control.api_keys WHERE hash = $1 AND revoked_at IS NULL";
        let row = sqlx::query(sql).bind(hash(secret)).fetch_optional(&self.pool).await?;
        row.as_ref().map(key).transpose()
    }

    /// Says whether any key is in force.
    ///
    /// # Errors
    /// What the database says.
    pub async fn has_keys(&self) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT FROM control.api_keys WHERE revoked_at IS NULL)";
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }
}

/// The secret is 256 random bits: one SHA-256 is as good as a slow hash.
fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

fn key(row: &PgRow) -> Result<ApiKey, Error> {
    let tenant: String = row.try_get("tenant")?;
    Ok(ApiKey {
        id: row.try_get("id")?,
        prefix: row.try_get("prefix")?,
        tenant: tenant.parse().map_err(|error| Error::Corrupt(format!("{error}")))?,
        name: row.try_get("name")?,
        is_operator: row.try_get("operator")?,
        created_at: row.try_get::<At, _>("created_at")?.0,
        revoked_at: row.try_get::<Option<At>, _>("revoked_at")?.map(|at| at.0),
    })
}
