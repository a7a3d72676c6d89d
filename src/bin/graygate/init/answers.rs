//! The questions of `graygate init`. They are on standard error, so that the policy can go to standard output.

use dialoguer::{Confirm, Input};

use super::draft::{self, Draft};
use crate::failure::Failure;

/// Asks for what the arguments have left open.
pub fn complete(draft: &mut Draft) -> Result<(), Failure> {
    draft.name = ask("Name of the policy, a DNS label such as reviews", "", &|text| {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_label = !text.is_empty() && text.len() <= 63 && text.bytes().all(is_part);
        if is_label && !text.starts_with('-') && !text.ends_with('-') {
            return Ok(());
        }
        Err("write up to 63 lower-case letters, digits and \"-\", with a letter or digit at both ends"
            .to_owned())
    })?;
    if draft.versions.is_empty() && draft.upstreams.is_empty() {
        if confirm("Divide requests among versions, such as for a canary?", true)? {
            ask_for_release(draft)?;
        } else {
            let question = "The Envoy cluster that requests need";
            let cluster = ask(question, "app", &|text| draft::parse_upstream(text).map(|_| ()))?;
            draft.upstreams.extend(draft::parse_upstream(&cluster).ok());
        }
    }
    let optional = |text: &str| match text.is_empty() || text == "none" || text.starts_with('/') {
        true => Ok(()),
        false => Err("write a path that begins with \"/\", or none".to_owned()),
    };
    let path = |text: String| Some(text).filter(|text| text.starts_with('/'));
    if draft.check.is_none() {
        draft.check = path(ask(
            "Path of the app's health endpoint, which the proxy asks (or none)",
            "/healthz",
            &optional,
        )?);
    }
    if draft.probe.is_none() {
        draft.probe =
            path(ask("Path at which the proxy answers readiness probes (or none)", "none", &optional)?);
    }
    if !draft.has_gate {
        draft.has_gate = confirm("Answer 503 at once while the app is not ready?", false)?;
    }
    Ok(())
}

fn ask_for_release(draft: &mut Draft) -> Result<(), Failure> {
    let check_versions = |text: &str| parse_versions(text).map(|_| ());
    let versions = ask(
        "Versions with their Envoy clusters, the default one first, such as v1=reviews-v1,v2=reviews-v2",
        "",
        &check_versions,
    )?;
    draft.versions = parse_versions(&versions).unwrap_or_default();
    for version in draft.versions.clone().into_iter().skip(1) {
        let question = format!("Share of {} in percent", version.name);
        let share = ask(&question, "0", &|text| match text.parse::<u32>() {
            Ok(0..=100) => Ok(()),
            _ => Err("write a whole number from 0 to 100".to_owned()),
        })?;
        draft.weights.push((version.name, share.parse().unwrap_or_default()));
    }
    let question = "What tells users apart (header:NAME, cookie:NAME, query:NAME or source-ip)";
    let key = ask(question, "header:x-user-id", &|text| draft::parse_key(text).map(|_| ()))?;
    draft.keys = draft::parse_key(&key).into_iter().collect();
    Ok(())
}

fn parse_versions(text: &str) -> Result<Vec<draft::NamedCluster>, String> {
    text.split(',').map(|version| draft::parse_version(version.trim())).collect()
}

/// Asks for a text until it is valid. An empty `default` is none.
fn ask(question: &str, default: &str, check: &dyn Fn(&str) -> Result<(), String>) -> Result<String, Failure> {
    let input = Input::<String>::new().with_prompt(question);
    let input = if default.is_empty() { input } else { input.default(default.to_owned()) };
    let answer = input.validate_with(|text: &String| check(text.trim())).interact_text();
    Ok(answer.map_err(failure)?.trim().to_owned())
}

fn confirm(question: &str, default: bool) -> Result<bool, Failure> {
    Confirm::new().with_prompt(question).default(default).interact().map_err(failure)
}

fn failure(error: dialoguer::Error) -> Failure {
    let dialoguer::Error::IO(error) = error;
    Failure::io("the terminal", &error)
}
