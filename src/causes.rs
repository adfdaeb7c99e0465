//! An error and its causes as one line.
//!
//! ```text
//! error: cause: its cause        what a message says already, its cause does not say again
//! ```

/// The error with its causes. Many errors name their cause in their own message; it stands there once.
pub fn told(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[derive(Debug, thiserror::Error)]
    #[error("open the lock /store: {source}")]
    struct Named {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_that_its_error_names_is_said_once() {
        let denied = std::io::Error::from_raw_os_error(libc::EACCES);
        let error = anyhow::Error::from(Named { source: denied }).context("the store");
        let words = told(&error);
        assert_eq!(words, "the store: open the lock /store: Permission denied (os error 13)");
        let plain = Err::<(), _>(anyhow::anyhow!("b")).context("a").expect_err("it is one");
        assert_eq!(told(&plain), "a: b");
    }
}
