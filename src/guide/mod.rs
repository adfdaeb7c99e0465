//! The guide: the chapters that `inspectd guide` prints and the page shows under `/guide/`. They are inside the program,
//! because the box is offline.
//!
//! A chapter is a Markdown file beside this one. Chapters for operators are there in Chinese, too, in `zh/`.
//! `tests/guide.rs` holds each to the program: its configs are checked, its command lines are parsed, its topics,
//! codes and figures are looked up in the code.

/// One chapter.
#[derive(Debug)]
pub(crate) struct Chapter {
    /// Its name on the command line and in the address.
    pub topic: &'static str,
    /// What it answers, in one line of the list.
    pub about: &'static str,
    /// Markdown.
    pub text: &'static str,
    /// The same in Chinese, where operators need it.
    pub chinese: Option<&'static str>,
}

/// All chapters, in the order in which a plant needs them.
pub(crate) const CHAPTERS: &[Chapter] = &[
    english("install", "from nothing to a running service", include_str!("install.md")),
    english(
        "first-product",
        "a recipe of one's own from pictures of good parts",
        include_str!("first-product.md"),
    ),
    english(
        "cameras",
        "kinds of cameras, their keys, what happens when one fails",
        include_str!("cameras.md"),
    ),
    english(
        "triggers",
        "who asks for a picture, and which picture is the part's own",
        include_str!("triggers.md"),
    ),
    english("recipes", "a pipeline file, its versions, and the replay gate", include_str!("recipes.md")),
    english("learning", "banks and heads: judging by confirmed parts", include_str!("learning.md")),
    Chapter {
        chinese: Some(include_str!("zh/review.md")),
        ..english("review", "the page: decide, filter, draw, charts, export", include_str!("review.md"))
    },
    english("mqtt", "topics, commands, several brokers, figures over HTTP", include_str!("mqtt.md")),
    english("modbus", "PLCs by Modbus TCP: the handshake, the registers", include_str!("modbus.md")),
    english(
        "sparkplug",
        "Sparkplug B: births, metrics, commands, what is owed",
        include_str!("sparkplug.md"),
    ),
    english(
        "opcua",
        "OPC UA by OPC 40100-1: connecting, certificates, nodes, states, jobs",
        include_str!("opcua.md"),
    ),
    english("ask", "free questions: pictures, films, long contexts, prompts", include_str!("ask.md")),
    english(
        "model-api",
        "the model for other programs: OpenAI's API, Dify, limits, what is refused",
        include_str!("model-api.md"),
    ),
    english("operate", "every day: commands, updates, backup, restore, salvage", include_str!("operate.md")),
    english("reliability", "what is promised, and what proves it", include_str!("reliability.md")),
    english(
        "performance",
        "speed, accuracy, memory, and which box is enough",
        include_str!("performance.md"),
    ),
    english("cluster", "from one box to many lines: servers with the model", include_str!("cluster.md")),
    english("security", "accounts, tokens, TLS, secrets, the service's limits", include_str!("security.md")),
    Chapter {
        chinese: Some(include_str!("zh/troubleshooting.md")),
        ..english(
            "troubleshooting",
            "each alarm, reason and refusal, and what to do",
            include_str!("troubleshooting.md"),
        )
    },
    english("glossary", "one word for one thing", include_str!("glossary.md")),
];

const fn english(topic: &'static str, about: &'static str, text: &'static str) -> Chapter {
    Chapter { topic, about, text, chinese: None }
}

/// The chapter of this name.
pub(crate) fn chapter(topic: &str) -> Option<&'static Chapter> {
    CHAPTERS.iter().find(|chapter| chapter.topic == topic)
}

/// The first heading of a chapter's text.
pub(crate) fn title(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_of_the_folder_is_a_chapter() {
        let files = |folder: &str| -> BTreeSet<String> {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter_map(|name| Some(name.to_str()?.strip_suffix(".md")?.to_owned())).collect()
        };
        let mut topics: BTreeSet<String> = CHAPTERS.iter().map(|c| c.topic.to_owned()).collect();
        assert_eq!(topics.len(), CHAPTERS.len(), "each once");
        // What is for who changes the program, and of no use on a box.
        topics.insert("changes".to_owned());
        assert_eq!(files("src/guide"), topics);
        let chinese = CHAPTERS.iter().filter(|c| c.chinese.is_some()).map(|c| c.topic.to_owned()).collect();
        assert_eq!(files("src/guide/zh"), chinese);
    }

    #[test]
    fn every_chapter_begins_with_its_title() {
        for chapter in CHAPTERS {
            for text in [Some(chapter.text), chapter.chinese].into_iter().flatten() {
                assert!(text.starts_with("# ") && !title(text).is_empty(), "{}", chapter.topic);
            }
        }
    }
}
