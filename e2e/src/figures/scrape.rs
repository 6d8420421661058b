//! Numbers out of what a program tells on its admin port.

use std::net::SocketAddr;

use anyhow::{Context, Result};

/// Asks a program for its numbers.
///
/// # Errors
/// When it does not answer.
pub async fn metrics(http: &reqwest::Client, admin: SocketAddr) -> Result<String> {
    let asked = http.get(format!("http://{admin}/metrics")).send().await.context("ask for metrics")?;
    Ok(asked.text().await?)
}

/// The sum of a number over all its labels; 0 where it is not there yet.
pub fn total(metrics: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest,
        };
        rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
    };
    metrics.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_summed_over_labels_and_told_from_longer_names() {
        let text = "# TYPE a_seconds histogram\na_seconds_sum{model=\"x}\"} 1.5\na_seconds_sum{model=\"y\"} 2\n\
                    a_seconds_sum_more 9\nb 4\n";
        assert_eq!(total(text, "a_seconds_sum"), 3.5);
        assert_eq!(total(text, "b"), 4.0);
        assert_eq!(total(text, "c"), 0.0);
    }
}
