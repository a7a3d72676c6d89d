//! The report as a table, and who differs in sentences.

use std::io::{self, Write};

use super::agreement::{shares, yes_or_no};
use super::printable::printable;
use super::report::{PolicyStatus, ProxyStatus, StatusReport};

const HEADS: [&str; 9] =
    ["PROXY", "MODULE", "POLICY", "DOCUMENT", "MODE", "DRAINING", "NOT READY", "SHARES", "ROLLED BACK"];

/// Writes the report.
pub fn write(report: &StatusReport, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![HEADS.map(str::to_owned)];
    for proxy in &report.proxies {
        rows.extend(proxy.policies.iter().map(|policy| row(proxy, policy).map(|cell| printable(&cell))));
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
            writeln!(out, "unreadable: {}: {}", printable(&proxy.source), printable(error))?;
        }
        for plugin in &proxy.policy_refused {
            let (source, plugin) = (printable(&proxy.source), printable(plugin));
            let instead = if proxy.policies.is_empty() { ", and no policy is in use" } else { "" };
            writeln!(out, "refused: {source}: the newest document of plugin {plugin} was refused{instead}")?;
        }
    }
    for difference in &report.differences {
        writeln!(out, "differ: policy {}: {}", printable(&difference.policy), difference.what)?;
        for group in &difference.groups {
            let proxies = printable(&group.proxies.join(", "));
            writeln!(out, "  {} on {proxies}", printable(&group.value))?;
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
    let counts = policy.rollbacks.iter().map(|(version, count)| format!("{version} ({count} so far)"));
    let rolled_back = policy.rolled_back.clone().unwrap_or_else(|| counts.collect());
    [
        proxy.source.clone(),
        or_dash(policy.module_version.clone().unwrap_or_default()),
        policy.policy.clone(),
        or_dash(policy.document.map(|document| document.to_string()).unwrap_or_default()),
        or_dash(policy.mode.clone().unwrap_or_default()),
        or_dash(policy.draining.map(yes_or_no).unwrap_or_default()),
        or_dash(not_ready.collect::<Vec<_>>().join(", ")),
        or_dash(shares(policy)),
        or_dash(rolled_back.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(proxy: ProxyStatus) -> String {
        let report = StatusReport { proxies: vec![proxy], differences: Vec::new(), agree: false };
        let mut out = Vec::new();
        write(&report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_of_strangers_does_not_reach_the_terminal_as_it_is() {
        let policy = PolicyStatus { policy: "shop\u{1b}[2J\n1 proxy".to_owned(), ..PolicyStatus::default() };
        let error = Some("status 500: \u{202e}\u{9b}".to_owned());
        let text = written(ProxyStatus { error, policies: vec![policy], ..ProxyStatus::default() });
        assert!(text.contains(r"shop\u{1b}[2J\n1 proxy") && text.contains(r"status 500: \u{202e}\u{9b}"));
    }

    #[test]
    fn a_refused_document_is_told_whether_or_not_a_policy_is_in_use() {
        let refused = |policies| {
            let policy_refused = vec!["canary".to_owned()];
            written(ProxyStatus {
                source: "a".to_owned(),
                policy_refused,
                policies,
                ..ProxyStatus::default()
            })
        };
        let line = "refused: a: the newest document of plugin canary was refused";
        assert_eq!(refused(Vec::new()), format!("{line}, and no policy is in use\n"));
        assert!(refused(vec![PolicyStatus::default()]).ends_with(&format!("{line}\n")));
    }
}
