//! What a process says beside its results, on stderr: how much of it, and in which form.
//!
//! ```text
//! INSPECTD_LOG         info | debug | info,inspectd::publish=debug | …      which lines
//! INSPECTD_LOG_FORMAT  text | json                                          for people, or one JSON object a line
//! ```
//!
//! The processes of the model and of the cameras have the variables of the daemon, and so its lines.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What `inspectd run --help` says of it.
pub(super) const HELP: &str = "\
Environment:
  INSPECTD_LOG         What the log says: error, warn, info, debug or trace; with a target also for one part alone, as
                       in info,inspectd::publish=debug
                       [default: info,sled=warn,rumqttc::v5::state=error]
  INSPECTD_LOG_FORMAT  text for people, or json for one object a line, as journald and log collectors read it
                       [default: text]
  INSPECTD_SECTION__KEY  Any key of the config, as in INSPECTD_MQTT__URL";

const FILTER: &str = "INSPECTD_LOG";
const FORMAT: &str = "INSPECTD_LOG_FORMAT";
/// The MQTT client warns of each answer that is no plain success: also of each fence of Sparkplug, which is an UNSUBSCRIBE
/// from what was never asked for. What is refused of results and commands, the sinks log themselves.
const FILTER_USUAL: &str = "info,sled=warn,rumqttc::v5::state=error";
/// What a filter is made of.
const LEVELS: &str = "error, warn, info, debug, trace and off";

/// Starts it, once a process.
///
/// # Errors
/// A variable that says nothing of use, in words.
pub fn start() -> Result<(), String> {
    let filter = filter(variable(FILTER)?.as_deref().unwrap_or(FILTER_USUAL))?;
    let is_json = is_json(variable(FORMAT)?.as_deref())?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!is_json && std::io::stderr().is_terminal())
        .with_target(false);
    if is_json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        lines.init();
    }
    Ok(())
}

/// One that is set and not empty.
fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name}: is not UTF-8")),
    }
}

/// A word alone that is no level would be taken for a part of the program, of which everything is said, and all else
/// would be silent.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let refused = |what: &str| {
        format!(
            "{FILTER}={text}: {what}; there are {LEVELS}, and as in info,inspectd::publish=debug one for a part"
        )
    };
    let is_alone = |word: &&str| !word.is_empty() && !word.contains(['=', '[', ']', '{', '}', ':']);
    for word in text.split(',').map(str::trim).filter(is_alone) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(refused(&format!("there is no level {word}")));
        }
    }
    EnvFilter::try_new(text).map_err(|error| refused(&error.to_string()))
}

fn is_json(text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(format!("{FORMAT}={other}: must be one of text, json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_with_what_would_be_one() {
        for fine in [
            FILTER_USUAL,
            "debug",
            "INFO",
            "off",
            "warn,inspectd::publish=debug",
            "inspectd[part{id=1}]=trace",
        ] {
            assert!(filter(fine).is_ok(), "{fine}");
        }
        for (bad, words) in
            [("verbose", "there is no level verbose"), ("info,inspectd=loud", "INSPECTD_LOG=info,")]
        {
            let refused = filter(bad).expect_err(bad);
            assert!(refused.contains(words) && refused.contains("error, warn, info"), "{refused}");
        }
        assert_eq!((is_json(None), is_json(Some("json"))), (Ok(false), Ok(true)));
        assert!(is_json(Some("xml")).is_err_and(|words| words.contains("text, json")));
    }
}
