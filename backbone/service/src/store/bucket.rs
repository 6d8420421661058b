//! Buckets of the clouds by URL: `s3://`, `gs://`, and Azure's `az://`, `abfs://` and `abfss://`.

use std::error::Error;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

use crate::chain::chain;
use crate::env::Strings;

/// The schemes of URLs that name a bucket, or on Azure a container.
pub const BUCKET_SCHEMES: [&str; 5] = ["s3", "gs", "az", "abfs", "abfss"];

/// How the variables begin that say who we are to a cloud, and where it is.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Azure's own command calls these two otherwise than its other tools.
const ALIASES: [(&str, &str); 2] = [
    ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
    ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
];

/// Opens the bucket of `url`, and returns with it the folder that the URL names in it. Keys, regions and endpoints
/// come from `strings`, under the names that the clouds' own tools use. Nothing is asked of the cloud yet.
///
/// # Errors
/// A sentence that says what is wrong with the URL or with the variables.
pub fn open_bucket(url: &Url, strings: &dyn Strings) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    crate::install_tls();
    let names = strings.names().into_iter();
    let ours = names.filter(|name| VARIABLES.iter().any(|prefix| name.starts_with(prefix)));
    let options = ours.filter_map(|name| {
        let value = strings.get(&name)?;
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        Some((alias.map_or(name, |(_, name)| (*name).to_owned()), value))
    });
    let (store, folder) = object_store::parse_url_opts(url, options).map_err(|error| {
        let problem = chain(&error);
        if problem.contains("Account must be specified") {
            let container = url.host_str().unwrap_or("container");
            return format!(
                "it names no account; set AZURE_STORAGE_ACCOUNT_NAME, or write \
                 abfss://{container}@ACCOUNT.dfs.core.windows.net/folder"
            );
        }
        problem
    })?;
    Ok((Arc::from(store), folder))
}

/// Nobody said who we are, and the machine's cloud did not say either.
#[derive(Debug, thiserror::Error)]
#[error(
    "there are no credentials for it; set {variables}, or run where the cloud gives programs an identity"
)]
pub struct NoCredentials {
    variables: &'static str,
    source: object_store::Error,
}

/// Puts the cause before an error that comes of asking the machine's cloud who we are: what the crate says is only
/// that an address did not answer.
pub fn explain(error: object_store::Error) -> Box<dyn Error + Send + Sync> {
    let object_store::Error::Generic { store, .. } = &error else { return Box::new(error) };
    let (asked, variables) = match *store {
        "S3" => ("/latest/api/token", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        "GCS" => ("/computeMetadata/", "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account"),
        "MicrosoftAzure" => ("/metadata/identity/", "AZURE_STORAGE_ACCOUNT_KEY"),
        _ => return Box::new(error),
    };
    if chain(&error).contains(asked) {
        Box::new(NoCredentials { variables, source: error })
    } else {
        Box::new(error)
    }
}
