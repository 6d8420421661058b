//! What is asked of a server before anything is trusted to it.

use redis::Value;

use super::RedisLog;
use crate::keys;
use crate::log::Error;

/// The oldest version whose streams and script flags are enough.
const OLDEST: (u32, u32) = (7, 0);

/// Refuses what would lose data, and warns of what may.
pub async fn server(log: &RedisLog) -> Result<(), Error> {
    let info: String = log.run("ask for the server's version", redis::cmd("INFO").arg("server")).await?;
    let version = info_field(&info, "redis_version").unwrap_or_default();
    if !recent_enough(version) {
        return Err(Error::Misconfigured(format!(
            "Redis {version} is too old: VoiceForge needs {}.{} or newer",
            OLDEST.0, OLDEST.1
        )));
    }
    if let Some(policy) = setting(log, "maxmemory-policy").await?
        && let Err(message) = policy_is_safe(&policy)
    {
        return Err(Error::Misconfigured(message));
    }
    if setting(log, "appendonly").await?.as_deref() == Some("no") {
        tracing::warn!(
            "redis does not keep an append-only file: drops made straight into vf:ingest are lost when it stops \
             (CONFIG SET appendonly yes)"
        );
    }
    shards(log).await
}

/// Fixes the number of shards with the first start; another number would look for recordings in the wrong place.
async fn shards(log: &RedisLog) -> Result<(), Error> {
    const ACTION: &str = "agree on the number of shards";
    let ours = log.config.shards;
    // Read first: at the memory limit a write is refused, and those who start then are those who free memory.
    let mut theirs: Option<u16> = log.run(ACTION, redis::cmd("GET").arg(keys::SHARDS)).await?;
    if theirs.is_none() {
        let mut command = redis::cmd("SET");
        command.arg(keys::SHARDS).arg(ours).arg("NX").arg("GET");
        theirs = log.run(ACTION, &command).await?;
    }
    match theirs {
        Some(theirs) if theirs != ours => Err(Error::Misconfigured(format!(
            "this deployment has {theirs} shards and was started with {ours}: set VOICEFORGE_SHARDS={theirs} \
             (the number is fixed when a deployment is first started)"
        ))),
        _ => Ok(()),
    }
}

/// Reads a setting; `None` where the server does not let us (managed services).
async fn setting(log: &RedisLog, name: &str) -> Result<Option<String>, Error> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    match log.run::<Value>("read the server's settings", &command).await {
        Ok(value) => {
            let pairs: std::collections::HashMap<String, String> =
                redis::from_redis_value(value).unwrap_or_default();
            Ok(pairs.get(name).cloned())
        }
        Err(Error::Unavailable { .. } | Error::Reply { .. }) => {
            tracing::warn!(
                setting = name,
                "redis does not tell its settings: check by hand that they are safe"
            );
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn policy_is_safe(policy: &str) -> Result<(), String> {
    if policy == "noeviction" {
        return Ok(());
    }
    Err(format!(
        "Redis may evict keys (maxmemory-policy is {policy}), which would lose recordings: \
         CONFIG SET maxmemory-policy noeviction"
    ))
}

fn recent_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST
}

/// Returns a field of an `INFO` reply.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_evicting_ones_are_refused() {
        assert!(recent_enough("7.0.15") && recent_enough("8.2.0") && recent_enough("10.0"));
        assert!(!recent_enough("6.2.14") && !recent_enough(""));
        assert!(policy_is_safe("noeviction").is_ok());
        assert!(
            policy_is_safe("allkeys-lru").unwrap_err().contains("CONFIG SET maxmemory-policy noeviction")
        );
    }

    #[test]
    fn info_fields_are_found() {
        assert_eq!(info_field("# Server\r\nredis_version:7.0.15\r\n", "redis_version"), Some("7.0.15"));
        assert_eq!(info_field("used_memory_human:1M\r\nused_memory:99\r\n", "used_memory"), Some("99"));
    }
}
