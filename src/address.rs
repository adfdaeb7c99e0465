//! Addresses of cameras as logs, messages and the effective config may show them.
//!
//! ```text
//! rtsp://user:password@10.0.0.7:554/user=admin&password=x   -->  rtsp://***@10.0.0.7:554/***
//! rtspsrc location=rtsp://10.0.0.7/x user-pw=y ! appsink    -->  rtspsrc location=rtsp://10.0.0.7/*** user-pw=*** ! appsink
//! /var/film.mp4                                             -->  /var/film.mp4
//! ```
//!
//! Cameras take passwords before the host, in the path and in the query, so that only scheme and host are
//! shown. Where it cannot be told which part is the host, it is not shown either.

/// Stands where a secret may have stood.
pub(crate) const MASK: &str = "***";

/// Keys of a pipeline's elements whose values are shown in no case.
const SECRET_KEYS: [&str; 9] = ["pass", "pw", "user", "secret", "token", "key", "auth", "cookie", "headers"];

/// A URL, a pipeline or a path, without what may be secret in it.
pub(crate) fn shown(address: &str) -> String {
    let is_scheme = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    match address.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => url(scheme, rest),
        None if !address.contains('!') => address.to_owned(),
        _ => pipeline(address),
    }
}

/// A text that others wrote about an address, such as an error of a library, without what may be secret.
#[cfg(any(test, feature = "ffmpeg", feature = "opencv"))]
pub(crate) fn scrubbed(text: &str, address: &str) -> String {
    let safe = shown(address);
    let others: Vec<String> = text.split(address).map(words).collect();
    others.join(&safe)
}

/// A text in which words are URLs.
fn words(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>');
    let word = |word: &str| {
        let bare = word.trim_end_matches(ends);
        match bare.split_once("://") {
            Some((scheme, rest)) => format!("{}{}", url(scheme, rest), &word[bare.len()..]),
            None => word.to_owned(),
        }
    };
    text.split_inclusive(ends).map(word).collect()
}

fn url(scheme: &str, rest: &str) -> String {
    // A file has no host; its path is what it is.
    if scheme == "file" {
        return format!("{scheme}://{rest}");
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // After the host an @ may belong to a password in the path, or end one that holds a slash.
    if path.contains('@') {
        return format!("{scheme}://{MASK}");
    }
    let user = if authority.contains('@') { "***@" } else { "" };
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = if path.len() > 1 { "/***" } else { "" };
    format!("{scheme}://{user}{host}{path}")
}

/// The description of a GStreamer pipeline, each `key=value` by itself.
fn pipeline(description: &str) -> String {
    let mut out = String::with_capacity(description.len());
    let mut rest = description;
    while let Some(at) = rest.find('=') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let key = before.rsplit(|c: char| c.is_whitespace() || c == '!').next().unwrap_or_default();
        let key = key.to_ascii_lowercase();
        let value = &after[..value_length(after)];
        out.push_str(&words(before));
        out.push('=');
        if SECRET_KEYS.iter().any(|word| key.contains(word)) {
            out.push_str(MASK);
        } else if let Some((scheme, rest)) = value.split_once("://") {
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
            out.push_str(&url(scheme, rest.trim_end_matches(['"', '\''])));
            out.extend(quote);
        } else {
            out.push_str(value);
        }
        rest = &after[value.len()..];
    }
    out.push_str(&words(rest));
    out
}

/// Bytes of the value at the beginning: up to its closing quote, or to the next space.
fn value_length(text: &str) -> usize {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        let ends = match quote {
            Some(quote) => i > 0 && c == quote && !escaped,
            None => c.is_whitespace(),
        };
        if ends {
            return i + quote.map_or(0, char::len_utf8);
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_and_host_are_shown() {
        for (address, safe) in [
            ("rtsp://me:HUNTER2@10.0.0.7:554/live", "rtsp://***@10.0.0.7:554/***"),
            ("rtsp://me:HUN@TER2@10.0.0.7/live", "rtsp://***@10.0.0.7/***"),
            ("rtsp://me:HUN/TER2@10.0.0.7/live", "rtsp://***"),
            ("rtsp://h/user=admin&password=HUNTER2", "rtsp://h/***"),
            ("rtsp://me:HUN!TER2@h/x=1", "rtsp://***@h/***"),
            ("rtsp://h/user=a&password=HUN!TER2", "rtsp://h/***"),
            ("rtsp://h/user=admin&password=HUN@TER2", "rtsp://***"),
            ("http://h:80?pwd=HUNTER2", "http://h:80/***"),
            ("http://h#HUNTER2", "http://h/***"),
            ("rtsp://h:554/", "rtsp://h:554"),
            ("rtsp://h", "rtsp://h"),
            ("/var/film.mp4", "/var/film.mp4"),
            ("file:///var/film.mp4", "file:///var/film.mp4"),
        ] {
            assert_eq!(shown(address), safe);
            assert!(!shown(address).contains("HUN") && !shown(address).contains("TER2"));
        }
    }

    #[test]
    fn a_pipeline_is_shown_without_its_secrets() {
        for (address, safe) in [
            (
                "rtspsrc location=rtsp://a:HUNTER2@h/x user-id=HUNTER2 user-pw=\"HUNTER2 HUNTER2\" latency=0 ! appsink",
                "rtspsrc location=rtsp://***@h/*** user-id=*** user-pw=*** latency=0 ! appsink",
            ),
            (
                "souphttpsrc location=\"http://h/HUNTER2\" extra-headers=\"a,b=(string)HUNTER2\" ! video/x-raw,width=640 ! appsink",
                "souphttpsrc location=\"http://h/***\" extra-headers=*** ! video/x-raw,width=640 ! appsink",
            ),
            (
                "srtsrc uri='srt://h:1?passphrase=HUNTER2' passphrase='HUNTER2\\' HUNTER2' ! appsink",
                "srtsrc uri='srt://h:1/***' passphrase=*** ! appsink",
            ),
            ("videotestsrc pattern=ball ! appsink", "videotestsrc pattern=ball ! appsink"),
        ] {
            assert_eq!(shown(address), safe);
        }
    }

    #[test]
    fn texts_of_libraries_are_scrubbed() {
        let address = "rtsp://me:HUNTER2@h:554/user=a&password=HUNTER2";
        for (text, safe) in [
            (
                "can't open rtsp://me:HUNTER2@h:554/user=a&password=HUNTER2: 401",
                "can't open rtsp://***@h:554/***: 401",
            ),
            ("redirected to \"http://h/HUNTER2\" and lost", "redirected to \"http://h/***\" and lost"),
            ("Connection to tcp://h:554 failed", "Connection to tcp://h:554 failed"),
            ("no such thing", "no such thing"),
        ] {
            assert_eq!(scrubbed(text, address), safe);
        }
    }
}
