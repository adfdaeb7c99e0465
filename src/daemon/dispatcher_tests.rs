//! Tests of the dispatcher: what it takes, refuses, remembers, and knows again.

use super::*;
use crate::config::TriggerOn;
use crate::daemon::commanded::{Commanded, Orders};
use crate::daemon::intake::WAITING_MAX;
use crate::daemon::intake::tests::camera;
use crate::domain::frame::Trigger;
use crate::queue::Popped;
use crate::recipe;
use crate::store::StoreOptions;
use std::time::Duration;

fn store(dir: &tempfile::TempDir) -> Arc<Store> {
    Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap())
}

fn pipeline(name: &str) -> Arc<Pipeline> {
    let text = std::fs::read_to_string(format!("pipelines/{name}.toml")).unwrap();
    Arc::new(recipe::pipeline_from_str(name, &text).unwrap())
}

/// The shipped recipe with a clip, which lasts as long as its deadline.
fn clip() -> Arc<Pipeline> {
    let text = std::fs::read_to_string("pipelines/machined-plate.toml").unwrap();
    let text =
        text.replace("machined-plate", "clip").replace("\n[[prompt]]\n", "\n[[prompt]]\nclip = true\n");
    let text = format!("{text}\n[clip]\nframes = 3\ninterval_ms = 10000\n");
    Arc::new(recipe::pipeline_from_str("clip", &text).unwrap())
}

fn pipelines() -> std::collections::BTreeMap<String, Arc<Pipeline>> {
    let known = [pipeline("machined-plate"), pipeline("any-part"), clip()];
    known.map(|p| (p.name.clone(), p)).into_iter().collect()
}

/// A dispatcher over a store, as a start makes it.
fn dispatcher_over(
    store: &Arc<Store>,
    cameras: &[crate::config::Camera],
    pipelines: &std::collections::BTreeMap<String, Arc<Pipeline>>,
) -> Dispatcher {
    let recipes = Arc::new(Registry::new(pipelines.values().map(|p| Recipe::of(p))));
    let intake = |camera: &crate::config::Camera| {
        Arc::new(Intake::new(camera, Orders::restore(camera, &recipes, store).unwrap()))
    };
    let station = Arc::new(Station::new(tokio::sync::mpsc::channel(256).0));
    let intakes = cameras.iter().map(intake).collect();
    Dispatcher::new(intakes, vec![], Arc::clone(&recipes), Arc::clone(store), station).unwrap()
}

/// A dispatcher whose store lasts as long as the process.
fn dispatcher_of(cameras: &[crate::config::Camera]) -> Dispatcher {
    dispatcher_over(&store(&tempfile::tempdir().unwrap()), cameras, &pipelines())
}

fn dispatcher() -> Dispatcher {
    dispatcher_of(&[camera("cam1", TriggerOn::Command), camera("cam2", TriggerOn::Interval)])
}

/// Three cameras; two parts share the second.
fn dispatcher_of_parts() -> Dispatcher {
    let mut dispatcher = dispatcher_of(&["top", "side", "back"].map(|id| camera(id, TriggerOn::Command)));
    let part = |name: &str, cameras: [&str; 2]| (name.to_owned(), cameras.map(str::to_owned).to_vec());
    dispatcher.parts = vec![part("housing", ["top", "side"]), part("cover", ["side", "back"])];
    dispatcher
}

fn waiting(dispatcher: &Dispatcher) -> Vec<usize> {
    dispatcher.intakes.iter().map(|c| c.waiting()).collect()
}

fn trigger(camera: Option<&str>) -> Command {
    let trigger = Trigger { part_id: Some("P1".into()), ..Trigger::default() };
    Command::Trigger(Box::new(Request {
        camera: camera.map(Into::into),
        part: None,
        name: None,
        trigger,
        received: Instant::now(),
    }))
}

fn of_part(part: &str, part_id: Option<&str>) -> Command {
    let trigger = Trigger { part_id: part_id.map(Into::into), ..Trigger::default() };
    Command::Trigger(Box::new(Request {
        camera: None,
        part: Some(part.into()),
        name: None,
        trigger,
        received: Instant::now(),
    }))
}

#[test]
fn a_trigger_reaches_its_camera_or_is_refused_with_its_reason() {
    let dispatcher = dispatcher();
    assert_eq!(dispatcher.take(trigger(None), &mqtt()), Ok(()));
    assert_eq!(dispatcher.take(trigger(Some("cam1")), &mqtt()), Ok(()));
    assert_eq!(dispatcher.take(trigger(Some("cam2")), &mqtt()).unwrap_err().code(), "not_triggered");
    assert_eq!(dispatcher.take(trigger(Some("cam3")), &mqtt()).unwrap_err().code(), "no_camera");
    for _ in 0..2 {
        assert!(
            matches!(dispatcher.intakes[0].next(Duration::ZERO), Popped::Item(r) if r.trigger.part_id.is_some())
        );
    }
    assert_eq!(dispatcher.intakes[0].next(Duration::ZERO), Popped::TimedOut);
}

#[test]
fn a_full_a_paused_and_a_closed_intake_refuse() {
    let dispatcher = dispatcher();
    for _ in 0..WAITING_MAX {
        assert_eq!(dispatcher.take(trigger(None), &mqtt()), Ok(()));
    }
    assert_eq!(dispatcher.take(trigger(None), &mqtt()).unwrap_err().code(), "full");
    assert_eq!(dispatcher.take(Command::Pause { camera: None }, &mqtt()), Ok(()));
    assert_eq!(dispatcher.take(trigger(None), &mqtt()).unwrap_err().code(), "paused");
    assert_eq!(dispatcher.take(Command::Resume { camera: Some("cam1".into()) }, &mqtt()), Ok(()));
    dispatcher.close();
    assert_eq!(dispatcher.take(trigger(None), &mqtt()).unwrap_err().code(), "stopping");
}

#[test]
fn a_pipeline_is_changed_to_a_known_one_only() {
    let dispatcher = dispatcher();
    let change = |pipeline: &str| Command::Pipeline { camera: None, pipeline: pipeline.into() };
    assert_eq!(dispatcher.take(change("nowhere"), &mqtt()).unwrap_err().code(), "no_pipeline");
    assert_eq!(dispatcher.take(change("any-part"), &mqtt()), Ok(()));
    assert_eq!(dispatcher.intakes[0].pipeline().name, "any-part");
}

#[test]
fn a_part_goes_to_all_its_cameras_under_one_id() {
    let dispatcher = dispatcher_of_parts();
    assert_eq!(dispatcher.take(of_part("housing", Some("P7")), &mqtt()), Ok(()));
    assert_eq!(waiting(&dispatcher), [1, 1, 0]);
    let views = [0, 1].map(|i| match dispatcher.intakes[i].next(Duration::ZERO) {
        Popped::Item(request) => request.trigger,
        other => panic!("{other:?}"),
    });
    let tickets = [0, 1].map(|i| views[i].ticket.unwrap());
    assert_ne!(tickets[0], tickets[1]);
    let part = views[0].part.as_ref().unwrap();
    assert_eq!((part.name.as_str(), views[0].part_id.as_deref()), ("housing", Some("P7")));
    assert_eq!(part.cameras, ["top", "side"]);
    assert_eq!(dispatcher.take(of_part("cover", None), &mqtt()), Ok(()));
    let Popped::Item(request) = dispatcher.intakes[2].next(Duration::ZERO) else { panic!("nothing came") };
    assert_eq!(request.trigger.part_id, request.trigger.part.map(|p| p.id), "a part without an id gets one");
    assert_eq!(dispatcher.take(of_part("lid", None), &mqtt()).unwrap_err().code(), "no_part");
}

#[test]
fn the_views_of_a_part_are_judged_by_the_version_that_was_active_when_it_was_triggered() {
    let dispatcher = dispatcher_of_parts();
    let [top, side] = [0, 1].map(|i| &dispatcher.intakes[i]);
    let taken = |camera: &Intake| match camera.next(Duration::ZERO) {
        Popped::Item(awaited) => {
            assert_eq!(awaited.pipeline, camera.in_force(), "its clip and its depth are of the same version");
            awaited.pipeline.version.clone()
        }
        other => panic!("{other:?}"),
    };
    let before = top.pipeline().version.clone();
    assert_eq!(dispatcher.take(of_part("housing", None), &mqtt()), Ok(()));
    assert_eq!(taken(top), before);
    let edited = Pipeline { version: "edited".into(), ..(*top.pipeline()).clone() };
    dispatcher.renew(Arc::new(Recipe::of(&edited)), || Ok(())).unwrap();
    assert_eq!(taken(side), before, "its picture is taken after the change");
    assert_eq!(dispatcher.take(of_part("housing", None), &mqtt()), Ok(()));
    assert_eq!([taken(top), taken(side)], ["edited", "edited"]);
    assert_eq!(dispatcher.take(of_part("housing", None), &mqtt()), Ok(()));
    let change = |pipeline: &str| Command::Pipeline { camera: None, pipeline: pipeline.into() };
    assert_eq!(dispatcher.take(change("any-part"), &mqtt()), Ok(()));
    assert_eq!(
        [taken(top), taken(side)],
        ["edited", "edited"],
        "another pipeline is for the next trigger, too"
    );
    assert_eq!(top.next(Duration::ZERO), Popped::TimedOut);
    assert_eq!(top.in_force().name, "any-part", "nothing is served any more");
}

#[test]
fn a_part_is_taken_by_all_its_cameras_or_by_none() {
    let dispatcher = dispatcher_of_parts();
    assert_eq!(dispatcher.take(Command::Pause { camera: Some("back".into()) }, &mqtt()), Ok(()));
    assert_eq!(dispatcher.take(of_part("cover", None), &mqtt()).unwrap_err().code(), "paused");
    assert_eq!(waiting(&dispatcher), [0, 0, 0]);
    for _ in 0..WAITING_MAX {
        assert_eq!(dispatcher.take(trigger(Some("side")), &mqtt()), Ok(()));
    }
    assert_eq!(dispatcher.take(of_part("housing", None), &mqtt()).unwrap_err().code(), "full");
    assert_eq!(
        dispatcher.take(trigger(None), &mqtt()).unwrap_err().code(),
        "full",
        "all that take triggers, or none"
    );
    assert_eq!(waiting(&dispatcher), [0, WAITING_MAX, 0]);
}

#[test]
fn the_only_part_needs_no_name_and_a_named_camera_is_no_part() {
    let mut dispatcher = dispatcher_of_parts();
    assert_eq!(dispatcher.take(Command::Resume { camera: None }, &mqtt()), Ok(()));
    dispatcher.parts.truncate(1);
    assert_eq!(dispatcher.take(trigger(None), &mqtt()), Ok(()));
    assert_eq!(waiting(&dispatcher), [1, 1, 0]);
    assert_eq!(dispatcher.take(trigger(Some("back")), &mqtt()), Ok(()));
    let Popped::Item(request) = dispatcher.intakes[2].next(Duration::ZERO) else { panic!("nothing came") };
    assert_eq!(request.trigger.part, None);
}

/// Who publishes to the broker of `[mqtt]`.
fn mqtt() -> Sender {
    Sender::Mqtt { sink: "mqtt".into() }
}

impl Dispatcher {
    /// Whether a command is carried out, whatever id a trigger gets.
    fn take(&self, command: Command, sender: &Sender) -> Result<(), Refusal> {
        self.carry_out(command, sender).map(|_| ())
    }
}

/// A trigger that its sender calls `name`.
fn named(name: &str, camera: &str, part_id: &str) -> Command {
    let trigger = Trigger { part_id: Some(part_id.into()), ..Trigger::default() };
    let (camera, name) = (Some(camera.into()), Some(name.into()));
    Command::Trigger(Box::new(Request { camera, part: None, name, trigger, received: Instant::now() }))
}

#[test]
fn what_comes_again_has_the_id_of_the_first_also_after_a_restart_and_from_another_sender() {
    let dir = tempfile::tempdir().unwrap();
    let cameras = [camera("cam1", TriggerOn::Command)];
    let http = Sender::Http { name: "gateway".into() };
    let over = || dispatcher_over(&store(&dir), &cameras, &pipelines());
    let id = |dispatcher: &Dispatcher, name: &str, sender: &Sender| {
        dispatcher.carry_out(named(name, "cam1", "P1"), sender).unwrap().expect("a trigger has an id")
    };
    let dispatcher = over();
    let first = id(&dispatcher, "c1", &mqtt());
    assert_eq!(
        [id(&dispatcher, "c1", &mqtt()), id(&dispatcher, "c1", &http)],
        [first.clone(), first.clone()]
    );
    assert_ne!(id(&dispatcher, "c2", &mqtt()), first);
    let nameless = || dispatcher.carry_out(trigger(None), &mqtt()).unwrap();
    assert_ne!(nameless(), nameless(), "each is another trigger");
    let accepted = dispatcher.store.accepted().unwrap();
    assert_eq!(accepted[0].trigger.id.as_ref(), Some(&first), "its result will name it");
    assert_eq!(dispatcher.carry_out(Command::Pause { camera: None }, &mqtt()), Ok(None));
    drop((accepted, dispatcher));
    let dispatcher = over();
    assert_eq!([id(&dispatcher, "c1", &mqtt()), id(&dispatcher, "c1", &http)], [first.clone(), first]);
}

#[test]
fn a_trigger_that_comes_again_is_carried_out_once_and_answered_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let cameras = [camera("cam1", TriggerOn::Command), camera("cam2", TriggerOn::Command)];
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    let http = Sender::Http { name: "gateway".into() };
    for sender in [&mqtt(), &mqtt(), &http] {
        assert_eq!(dispatcher.take(named("c1", "cam1", "P1"), sender), Ok(()));
    }
    assert_eq!(waiting(&dispatcher), [1, 0]);
    assert_eq!(dispatcher.take(named("c1", "cam1", "P2"), &http).unwrap_err().code(), "repeated");
    assert_eq!(
        dispatcher.take(named("c1", "cam2", "P1"), &http),
        Ok(()),
        "another camera's is another trigger"
    );
    assert_eq!(dispatcher.take(trigger(Some("cam1")), &http), Ok(()));
    assert_eq!(dispatcher.take(trigger(Some("cam1")), &http), Ok(()), "without a name nobody can tell");
    assert_eq!(waiting(&dispatcher), [3, 1]);

    // What was refused stays refused: the part may have gone by since.
    dispatcher.take(Command::Pause { camera: None }, &http).unwrap();
    assert_eq!(dispatcher.take(named("c2", "cam1", "P2"), &http).unwrap_err().code(), "paused");
    dispatcher.take(Command::Resume { camera: None }, &http).unwrap();
    assert_eq!(dispatcher.take(named("c2", "cam1", "P2"), &http).unwrap_err().code(), "paused");
    assert_eq!(dispatcher.take(named("c3", "cam1", "P2"), &http), Ok(()));

    drop(dispatcher);
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    assert_eq!(dispatcher.take(named("c1", "cam1", "P1"), &mqtt()), Ok(()));
    assert_eq!(waiting(&dispatcher), [0, 0], "it was accepted before the restart");
    assert_eq!(dispatcher.store.accepted().unwrap().len(), 5);
}

#[test]
fn two_brokers_that_count_alike_lose_no_trigger_and_one_command_on_both_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let cameras = [camera("cam1", TriggerOn::Command)];
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    let erp = Sender::Mqtt { sink: "erp".into() };
    let nameless = || {
        let (camera, name) = (Some("cam1".into()), Some("1".into()));
        let request =
            Request { camera, part: None, name, trigger: Trigger::default(), received: Instant::now() };
        Command::Trigger(Box::new(request))
    };
    for sender in [mqtt(), mqtt(), erp.clone(), erp.clone()] {
        assert_eq!(dispatcher.take(nameless(), &sender), Ok(()));
    }
    assert_eq!(waiting(&dispatcher), [2], "each system's first part, once");
    // Both call it 2, and mean different parts.
    assert_eq!(dispatcher.take(named("2", "cam1", "P2"), &mqtt()), Ok(()));
    assert_eq!(dispatcher.take(named("2", "cam1", "Q2"), &erp), Ok(()));
    assert_eq!(waiting(&dispatcher), [4]);
    assert_eq!(dispatcher.take(named("2", "cam1", "P3"), &mqtt()).unwrap_err().code(), "repeated");
    // One system publishes the same command to both brokers.
    assert_eq!(dispatcher.take(named("3", "cam1", "P3"), &mqtt()), Ok(()));
    assert_eq!(dispatcher.take(named("3", "cam1", "P3"), &erp), Ok(()));
    assert_eq!(waiting(&dispatcher), [5]);
    assert_eq!(dispatcher.take(named("3", "cam1", "Q3"), &erp).unwrap_err().code(), "repeated");
    drop(dispatcher);

    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    for sender in [mqtt(), erp.clone()] {
        assert_eq!(dispatcher.take(nameless(), &sender), Ok(()));
        assert_eq!(dispatcher.take(named("3", "cam1", "P3"), &sender), Ok(()));
    }
    assert_eq!(waiting(&dispatcher), [0], "all of it is known after a restart");
    assert_eq!(dispatcher.take(named("3", "cam1", "Q3"), &erp).unwrap_err().code(), "repeated");
}

#[test]
fn the_fate_of_a_file_is_known_after_a_crash_until_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let cameras = [camera("cam1", TriggerOn::Command)];
    let file = |stamp: &str| Sender::File { name: "a.json".into(), stamp: stamp.into() };
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    assert_eq!(dispatcher.take(trigger(None), &file("1")), Ok(()));
    assert_eq!(dispatcher.take(named("c1", "cam1", "P1"), &file("2")), Ok(()));
    assert_eq!(
        dispatcher.take(named("c1", "cam1", "P1"), &file("3")),
        Ok(()),
        "the same trigger, in another file"
    );
    assert_eq!(dispatcher.take(of_part("lid", None), &file("4")).unwrap_err().code(), "no_part");
    assert_eq!(waiting(&dispatcher), [2]);
    drop(dispatcher);
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    let known = |stamp: &&str| dispatcher.was_accepted(stamp);
    assert!(["1", "2", "3"].iter().all(known) && !known(&"4"));
    dispatcher.settle("2");
    drop(dispatcher);
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    assert!(dispatcher.was_accepted("1") && !dispatcher.was_accepted("2"));
}

#[test]
fn a_file_that_finds_no_room_is_no_second_trigger_when_it_asks_again() {
    let dispatcher = dispatcher();
    for _ in 0..WAITING_MAX {
        dispatcher.take(trigger(None), &mqtt()).unwrap();
    }
    let file = Sender::File { name: "a.json".into(), stamp: "1".into() };
    assert_eq!(dispatcher.take(named("c1", "cam1", "P1"), &file).unwrap_err().code(), "full");
    assert!(matches!(dispatcher.intakes[0].next(Duration::ZERO), Popped::Item(_)));
    assert_eq!(dispatcher.take(named("c1", "cam1", "P1"), &file), Ok(()));
    // Any other sender was told, and has acted on it.
    assert_eq!(dispatcher.take(named("c2", "cam1", "P2"), &mqtt()).unwrap_err().code(), "full");
    assert!(matches!(dispatcher.intakes[0].next(Duration::ZERO), Popped::Item(_)));
    assert_eq!(dispatcher.take(named("c2", "cam1", "P2"), &mqtt()).unwrap_err().code(), "full");
}

#[test]
fn what_was_commanded_holds_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cameras = [camera("cam1", TriggerOn::Command), camera("cam2", TriggerOn::Interval)];
    let engineer = Sender::Http { name: "anna".into() };
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    let change = Command::Pipeline { camera: Some("cam1".into()), pipeline: "any-part".into() };
    dispatcher.take(change, &engineer).unwrap();
    dispatcher.take(Command::Pause { camera: Some("cam2".into()) }, &mqtt()).unwrap();
    drop(dispatcher);
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    let (line, no_recipe) = dispatcher.intakes[0].line();
    assert_eq!(
        (line.pipeline.as_str(), line.pipeline_by.as_str(), no_recipe),
        ("any-part", "http:anna", None)
    );
    assert!(!line.paused && line.since.ends_with('Z'), "{line:?}");
    let (line, _) = dispatcher.intakes[1].line();
    assert_eq!((line.pipeline.as_str(), line.pipeline_by.as_str()), ("machined-plate", ""));
    assert!(line.paused && line.paused_by == "mqtt" && dispatcher.intakes[1].is_paused());
    dispatcher.take(Command::Resume { camera: None }, &engineer).unwrap();
    drop(dispatcher);
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    assert!(!dispatcher.intakes[1].is_paused());
    assert_eq!(dispatcher.intakes[0].pipeline().name, "any-part");
}

#[test]
fn a_commanded_pipeline_that_is_gone_judges_nothing_and_no_other_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let cameras = [camera("cam1", TriggerOn::Command)];
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    let change = |pipeline: &str| Command::Pipeline { camera: None, pipeline: pipeline.into() };
    dispatcher.take(change("any-part"), &mqtt()).unwrap();
    drop(dispatcher);

    let mut gone = pipelines();
    gone.remove("any-part");
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &gone);
    let (line, no_recipe) = dispatcher.intakes[0].line();
    assert!(no_recipe.unwrap().contains("\"any-part\" is not in pipelines_dir"));
    assert!(line.pipeline.is_empty() && !line.paused && dispatcher.intakes[0].is_paused());
    assert_eq!(dispatcher.take(trigger(None), &mqtt()).unwrap_err().code(), "fault");
    dispatcher.take(Command::Resume { camera: None }, &mqtt()).unwrap();
    assert_eq!(dispatcher.take(trigger(None), &mqtt()).unwrap_err().code(), "fault");
    drop(dispatcher);

    // Back again, in another version.
    let mut edited = pipelines();
    let other = Pipeline { version: "edited".into(), ..(*edited["any-part"]).clone() };
    edited.insert("any-part".into(), Arc::new(other));
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &edited);
    assert_eq!(dispatcher.intakes[0].line().0.pipeline_version, "edited");
    assert_eq!(dispatcher.take(trigger(None), &mqtt()), Ok(()));
    drop(dispatcher);

    // An engineer has changed the config since: it is the newer word, and the command is forgotten.
    let mut newer = cameras.clone();
    newer[0].pipeline = "clip".into();
    newer[0].trigger.on = TriggerOn::Interval;
    let dispatcher = dispatcher_over(&store(&dir), &newer, &pipelines());
    assert_eq!(dispatcher.intakes[0].pipeline().name, "clip");
    let kept = dispatcher.store.remembered::<Commanded>("commanded/cam1").unwrap().unwrap();
    assert_eq!(kept.recipe, None);
    drop(dispatcher);
    let dispatcher = dispatcher_over(&store(&dir), &cameras, &pipelines());
    assert_eq!(dispatcher.intakes[0].pipeline().name, "machined-plate");
}

#[test]
fn each_camera_takes_only_pipelines_that_its_config_could_name() {
    let dispatcher =
        dispatcher_of(&[camera("cam1", TriggerOn::Interval), camera("cam2", TriggerOn::Command)]);
    let change =
        |camera: Option<&str>| Command::Pipeline { camera: camera.map(Into::into), pipeline: "clip".into() };
    let refused = dispatcher.take(change(None), &mqtt()).unwrap_err();
    assert!(
        refused.code() == "unfit" && refused.to_string().contains("cam2: its clip takes 20000 ms"),
        "{refused}"
    );
    assert_eq!(dispatcher.intakes[0].pipeline().name, "machined-plate", "all cameras or none");
    assert_eq!(dispatcher.take(change(Some("cam1")), &mqtt()), Ok(()));
    assert_eq!(dispatcher.intakes[0].pipeline().name, "clip");
}
