//! A server on a free port, with a store that holds parts and one account a role.

use super::http::{Answer, ask};
use super::inspections::inspection;
use super::tokens::{self, bearer};
use inspectd::domain::camera::{CameraStatus, LineState};
use inspectd::domain::grade::{Grade, Reason, Verdict};
use inspectd::domain::inspection::Inspection;
use inspectd::domain::learn::{LearnRefusal, LearnWanted, Learnable};
use inspectd::domain::product::{NewProduct, ProductRefusal};
use inspectd::domain::promise::{
    Calibration, Decisions, Ground, Needed, Outcomes, Proven, Thresholds, Wanted,
};
use inspectd::domain::recipe::{Progress, RecipeError};
use inspectd::domain::rect::BoxPx;
use inspectd::domain::text::TextLine;
use inspectd::domain::trigger::{Command, Refusal};
use inspectd::store::accounts::Account;
use inspectd::store::recipes::Entry;
use inspectd::store::{Store, StoreOptions};
use inspectd::web::Web;
use inspectd::web::auth::{self, Role};
use inspectd::web::cameras::{Warning, Warnings};
use inspectd::web::learn::Learning;
use inspectd::web::metrics::Health;
use inspectd::web::options::WebOptions;
use inspectd::web::products::Products;
use inspectd::web::recipes::Recipes;
use inspectd::web::thresholds::Promising;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct Server {
    pub web: Web,
    pub store: Arc<Store>,
    /// Commands that reached the line.
    pub commanded: Arc<Mutex<Vec<Command>>>,
    pub dir: tempfile::TempDir,
}

/// Which recipe each camera runs, as the daemon's board would say it.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<Mutex<BTreeMap<String, String>>>);

impl Runs {
    pub(crate) fn change(&self, camera: &str, recipe: &str) {
        self.0.lock().unwrap().insert(camera.into(), recipe.into());
    }

    fn status(&self) -> Vec<(String, CameraStatus)> {
        let status = |(id, pipeline): (&String, &String)| {
            let line = LineState { pipeline: pipeline.clone(), ..LineState::default() };
            (id.clone(), CameraStatus { line, ..CameraStatus::default() })
        };
        self.0.lock().unwrap().iter().map(status).collect()
    }
}

/// The warnings about the recipe `blind`; of another that is known there are none.
fn warnings() -> Warnings {
    let warning = |line, key: &str, value: &str, message: &str| Warning {
        file: "pipelines/blind.toml".into(),
        line,
        key: key.into(),
        value: value.into(),
        message: message.into(),
    };
    let blind = vec![
        warning(12, "tiling.tile_px", "8192", "it cannot be relied on to see a defect below 1024 px"),
        warning(1, "prompt", "", "<img src=x onerror=alert(1)>"),
    ];
    Box::new(move |recipe| if recipe == "blind" { blind.clone() } else { vec![] })
}

/// Part `n`: every third passes, every third fails, every third is a review with text.
pub(crate) fn part(n: u64) -> Inspection {
    let mut part = inspection(n);
    part.captured_at = std::time::SystemTime::now() - Duration::from_mins(50) + Duration::from_secs(n);
    part.finished_at = part.captured_at + Duration::from_millis(700 + 10 * (n % 7));
    part.findings[0].bbox_px = BoxPx::new(60.0, 40.0, 130.0, 90.0);
    match n % 3 {
        0 => {
            part.verdict = Verdict::Pass;
            part.grade = Grade::Ok;
            part.findings.clear();
        }
        1 => {}
        _ => {
            part.verdict = Verdict::Review(Reason::TextUncertain { prompt: "nameplate".into(), line: 1 });
            part.findings[0].label = "pit".into();
            part.texts = vec![TextLine {
                prompt: "nameplate".into(),
                line: 1,
                read: Some("SN4821-87".into()),
                expected: Some("SN4821-B7".into()),
                matches: Some(false),
                mismatches: vec![],
                confidence: 0.61,
            }];
        }
    }
    part
}

pub(crate) fn picture() -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/examples/images/defect-256x256-00.png");
    std::fs::read(path).unwrap()
}

pub(crate) fn commit(store: &Store, part: &Inspection) {
    let image = store.put_image(&picture(), "png").unwrap();
    store.commit(part, Some(image)).unwrap();
}

pub(crate) fn options(dir: &Path) -> WebOptions {
    WebOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        hosts: vec!["box.example".into()],
        public_url: None,
        certificate: None,
        state_dir: dir.to_owned(),
        session: Duration::from_hours(1),
        open_metrics: false,
        model_api: true,
    }
}

/// Whom the page asks about recipes where no version is kept.
struct NoVersions;

impl Recipes for NoVersions {
    fn progress(&self) -> Option<Progress> {
        None
    }

    fn activate(&self, pipeline: &str, version: &str, _: &str, _: &str) -> Result<Entry, RecipeError> {
        Err(RecipeError::NoVersion { pipeline: pipeline.into(), version: version.into() })
    }
}

/// Whom the page asks to learn where there is no pipeline.
struct NoPipelines;

impl Learning for NoPipelines {
    fn learnable(&self) -> Result<Vec<Learnable>, LearnRefusal> {
        Ok(vec![])
    }

    fn start(&self, pipeline: &str, _: LearnWanted, _: &str) -> Result<(), LearnRefusal> {
        Err(LearnRefusal::NoPipeline { pipeline: pipeline.into() })
    }

    fn cancel(&self, pipeline: &str, _: &str) -> Result<(), LearnRefusal> {
        Err(LearnRefusal::NotUnderWay { pipeline: pipeline.into() })
    }
}

impl Promising for NoPipelines {
    /// But for one, of which a thousand defective parts are known.
    fn prove(&self, pipeline: &str, wanted: Wanted) -> Result<Proven, LearnRefusal> {
        if pipeline != "nuts" {
            return Err(LearnRefusal::NoPipeline { pipeline: pipeline.into() });
        }
        let decided = |decided| Decisions { inspected: 2000, decided };
        let calibration = Calibration {
            wanted,
            good: 3000,
            defective: 1000,
            unjudged: 0,
            thresholds: Some(Thresholds { review_above: 0.12, fail_above: None }),
            of_defective: Outcomes { pass: 3, review: 997, fail: 0 },
            of_good: Outcomes { pass: 2400, review: 600, fail: 0 },
            best_escape: 0.003,
            needed: vec![Needed { escape: wanted.promise.escape, defective: 299 }],
        };
        let (passed, others) = (decided(1000), decided(2000));
        let ground = Ground { version: "0a1b2c3d4e5f".into(), passed, others, thinned: 7, since: None };
        Ok(Proven { calibration, ground, toml: "[verdict]\n".into(), stated: None })
    }
}

/// Whom the page asks for a new product where every name is taken.
struct NoNames;

impl Products for NoNames {
    fn make(&self, wanted: NewProduct, _: &str) -> Result<(), ProductRefusal> {
        Err(ProductRefusal::Exists { name: wanted.name })
    }
}

impl Server {
    /// With `parts` inspections, the accounts viewer, operator and engineer, and a token for each role.
    pub(crate) fn start(parts: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap());
        for n in 1..=parts {
            commit(&store, &part(n));
        }
        let hash = auth::hash(PASSWORD).unwrap();
        for role in Role::ALL {
            let name = role.as_str().to_owned();
            let (password_hash, created_at) = (hash.clone(), "2026-01-01T00:00:00.000Z".to_owned());
            tokens::put(&store, role);
            if role == Role::Model {
                continue;
            }
            let account = Account { name: name.clone(), role: name, password_hash, created_at };
            store.put_account(&account).unwrap();
        }
        Self::over(store, dir)
    }

    /// Over a store as it is.
    pub(crate) fn over(store: Arc<Store>, dir: tempfile::TempDir) -> Self {
        let options = options(dir.path());
        Self::with(store, dir, options)
    }

    /// Over a store as it is, with options of its own.
    pub(crate) fn with(store: Arc<Store>, dir: tempfile::TempDir, options: WebOptions) -> Self {
        let probe = Box::new(|| Health { alive: true, sinks: vec![], commands: true });
        let kept = Arc::clone(&store);
        // The page has a runtime of its own, which cannot be started inside that of a test.
        let web = std::thread::spawn(move || Web::start(options, kept, Box::new(Vec::new), probe));
        let web = web.join().unwrap().unwrap();
        let commanded = Arc::new(Mutex::new(Vec::new()));
        let line = Arc::clone(&commanded);
        web.take_commands(Arc::new(move |command, _| {
            if command == (Command::Pause { camera: Some("nowhere".into()) }) {
                return Err(Refusal::NoCamera { camera: "nowhere".into(), known: "cam1".into() });
            }
            let is_trigger = matches!(command, Command::Trigger(_));
            line.lock().unwrap().push(command);
            Ok(is_trigger.then(|| "T1".to_owned()))
        }));
        web.keep_recipes(Arc::new(NoVersions));
        web.learn_with(Arc::new(NoPipelines));
        web.prove_with(Arc::new(NoPipelines));
        web.make_products_with(Arc::new(NoNames));
        Self { web, store, commanded, dir }
    }

    /// From now on it has these cameras and the recipes that they run.
    pub(crate) fn run_recipes(&self, cameras: &[(&str, &str)]) -> Runs {
        let runs = Runs::default();
        cameras.iter().for_each(|(camera, recipe)| runs.change(camera, recipe));
        let board = runs.clone();
        self.web.show_cameras(Box::new(move || board.status()), warnings());
        runs
    }

    /// Its store and folder, after the server has ended.
    pub(crate) fn into_parts(self) -> (Arc<Store>, tempfile::TempDir) {
        drop(self.web);
        (self.store, self.dir)
    }

    pub(crate) fn get(&self, path: &str, role: Role) -> Answer {
        self.ask("GET", path, Some(role), "")
    }

    pub(crate) fn post(&self, path: &str, role: Role, body: &serde_json::Value) -> Answer {
        self.ask("POST", path, Some(role), &body.to_string())
    }

    pub(crate) fn ask(&self, method: &str, path: &str, role: Option<Role>, body: &str) -> Answer {
        let header = role.map(bearer);
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        ask(self.web.address, method, path, &headers, body)
    }
}
