//! The report as a table, and who differs in sentences.

use std::io::{self, Write};

use super::agreement::shares;
use super::report::{PolicyStatus, ProxyStatus, StatusReport};

const HEADS: [&str; 8] =
    ["PROXY", "MODULE", "POLICY", "DOCUMENT", "MODE", "NOT READY", "SHARES", "ROLLED BACK"];

/// Writes the report.
pub fn write(report: &StatusReport, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![HEADS.map(str::to_owned)];
    for proxy in &report.proxies {
        rows.extend(proxy.policies.iter().map(|policy| row(proxy, policy)));
    }
    if rows.len() > 1 {
        let widths: [usize; HEADS.len()] = core::array::from_fn(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        });
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
    }
    for proxy in &report.proxies {
        if let Some(error) = &proxy.error {
            writeln!(out, "unreadable: {}: {error}", proxy.source)?;
        }
    }
    for difference in &report.differences {
        writeln!(out, "differ: policy {}: {}", difference.policy, difference.what)?;
        for group in &difference.groups {
            writeln!(out, "  {} on {}", group.value, group.proxies.join(", "))?;
        }
    }
    let (read, all) =
        (report.proxies.iter().filter(|proxy| proxy.error.is_none()).count(), report.proxies.len());
    match report.agree {
        true if all == 1 => writeln!(out, "1 proxy"),
        true => writeln!(out, "{all} proxies agree"),
        false if read < all => writeln!(out, "{} of {all} proxies cannot be read", all - read),
        false => Ok(()),
    }
}

fn row(proxy: &ProxyStatus, policy: &PolicyStatus) -> [String; HEADS.len()] {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let not_ready = policy.not_ready.iter().map(|upstream| {
        let what = match upstream.state.as_str() {
            "not-ready" => upstream.reason.clone(),
            state => Some(state.to_owned()),
        };
        match what {
            Some(what) => format!("{} ({what})", upstream.upstream),
            None => upstream.upstream.clone(),
        }
    });
    [
        proxy.source.clone(),
        or_dash(policy.module_version.clone().unwrap_or_default()),
        policy.policy.clone(),
        or_dash(policy.document.map(|document| document.to_string()).unwrap_or_default()),
        or_dash(policy.mode.clone().unwrap_or_default()),
        or_dash(not_ready.collect::<Vec<_>>().join(", ")),
        or_dash(shares(policy)),
        or_dash(policy.rolled_back.join(", ")),
    ]
}
