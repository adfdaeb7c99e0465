//! Tests of proofs: what holds, what does not, and what that says about a model.

use super::*;
use vlm::{AnswerToken, Answers, Finish, Ground, Timing};

/// Says the same about every picture, whichever was asked.
struct Says<'a>(ModelInfo, &'a [&'a str]);

impl Vlm for Says<'_> {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn answer(&mut self, jobs: &[Job], _: &(dyn Fn() -> bool + Sync)) -> Answers {
        let says = |text: &&str| {
            let tokens = vec![AnswerToken { id: 0, start: 0, end: text.len(), prob: 1.0 }];
            let (finish, ground) = (Finish::Stop, Ground::Constrained);
            vec![Ok(Completion {
                text: (*text).into(),
                tokens,
                prompt_ids: vec![],
                finish,
                ground,
                cells: None,
            })]
        };
        assert!(jobs.len() >= self.1.len());
        Answers { jobs: self.1.iter().map(says).collect(), timing: Timing::default() }
    }
}

/// What comes of a proof when a model answers so.
fn outcome(known: &[Known], answers: &[&str]) -> Result<(), String> {
    let proof = Proof { known: known.to_vec() };
    let outcomes = ask(&mut Says(ModelInfo::default(), answers), &proof, &|| true);
    judge(&proof, &outcomes)
}

fn labels() -> Vec<String> {
    vec!["pit".into(), "stain".into()]
}

fn known(expected: Expected, firm: bool) -> Known {
    Known {
        name: "a".into(),
        picture: Arc::new(RgbImage::new(8, 8)),
        budget: PixelBudget { min_pixels: 1024, max_pixels: 4096 },
        question: "Find pit, stain.".into(),
        expected,
        firm,
    }
}

const PIT: &str = r#"[{"bbox_2d":[100,100,200,200],"label":"pit","severity":"minor"}]"#;
const NEAR: &str = r#"[{"bbox_2d":[110,95,205,190],"label":"pit","severity":"major"}]"#;
const FAR: &str = r#"[{"bbox_2d":[100,100,200,260],"label":"pit","severity":"minor"}]"#;

#[test]
fn a_firm_picture_must_be_answered_as_it_is_known() {
    let boxes = vec![("pit".to_owned(), [100, 100, 200, 200])];
    let firm = [known(Expected::Boxes { labels: labels(), boxes }, true)];
    for good in [PIT, NEAR] {
        assert_eq!(outcome(&firm, &[good]), Ok(()));
    }
    for bad in ["[]", FAR, &PIT.replace("pit", "stain"), "nothing", "[", "[{}]"] {
        let why = outcome(&firm, &[bad]).expect_err(bad);
        assert!(why.contains("1 of 1 known pictures"), "{why}");
    }
    assert!(outcome(&firm, &[]).is_err(), "no answer is no proof");
    let clean = [known(Expected::Clean { labels: labels() }, true)];
    assert_eq!((outcome(&clean, &["[]"]), outcome(&clean, &[PIT]).is_err()), (Ok(()), true));
    let lines = [known(Expected::Lines(vec!["A 1".into()]), true)];
    assert_eq!(outcome(&lines, &[r#"["A 1"]"#]), Ok(()));
    assert!(outcome(&lines, &[r#"["A 7"]"#]).is_err());
}

#[test]
fn of_pictures_that_were_never_asked_half_of_each_kind_must_hold() {
    let found = || known(Expected::Found { labels: labels() }, false);
    let clean = || known(Expected::Clean { labels: labels() }, false);
    let set = [found(), found(), clean(), clean()];
    assert_eq!(outcome(&set, &[PIT, "[]", "[]", PIT]), Ok(()));
    assert!(outcome(&set, &["[]", "[]", "[]", "[]"]).expect_err("blind").contains("0 of 2 defective"));
    assert!(outcome(&set, &[PIT, PIT, PIT, PIT]).expect_err("sees ghosts").contains("0 of 2 clean"));
    assert_eq!(outcome(&[], &[]), Ok(()), "nothing known is nothing asked");
    let firm = || known(Expected::Found { labels: labels() }, true);
    assert_eq!(
        outcome(&[firm(), found()], &[PIT, "[]"]),
        Ok(()),
        "those that held before count with the others"
    );
    assert!(
        outcome(&[firm(), found(), found()], &[PIT, "[]", "[]"]).expect_err("a third").contains("1 of 3")
    );
}

#[test]
fn the_shipped_proof_reads_and_an_unknown_one_is_refused() {
    let of = |name: &str| named(&ModelInfo { proof: Some(name.into()), ..ModelInfo::default() });
    let proof = of(shipped::SMALL).expect("it reads").expect("it is there");
    let found = proof.known.iter().filter(|k| k.expected.is_found()).count();
    let clean = proof.known.iter().filter(|k| matches!(k.expected, Expected::Clean { .. })).count();
    let lines = proof.known.iter().filter(|k| matches!(k.expected, Expected::Lines(_))).count();
    assert_eq!((found, clean, lines), (5, 4, 3));
    assert!(proof.known.iter().all(|k| k.firm));
    assert!(matches!(of("inspectd-smbll"), Err(Refused::NoProof { .. })));
    assert!(matches!(named(&ModelInfo::default()), Ok(None)));
}
