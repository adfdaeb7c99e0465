//! Thresholds by HTTP: what is asked for reaches who proves, and what is proven comes back in the words of the API.

use super::server::Server;
use inspectd::web::auth::Role;
use serde_json::json;

#[test]
fn an_engineer_asks_for_a_promise_and_gets_its_thresholds() {
    let server = Server::start(0);
    let ask = |path: &str| server.ask("GET", path, Some(Role::Engineer), "");
    let answer = ask("/api/v1/thresholds/nuts?escape=0.02&confidence=0.9");
    assert_eq!(answer.status, 200, "{}", answer.head);
    let found = answer.json();
    assert_eq!(
        (&found["proven"], &found["escape"], &found["confidence"]),
        (&json!(true), &json!(0.02), &json!(0.9))
    );
    // As the file has it, and not as the nearest number of 32 bits.
    assert_eq!((&found["review_above_score"], &found["fail_above_score"]), (&json!(0.12), &json!(null)));
    assert_eq!((&found["escapes"], &found["review_share_of_good"]), (&json!(3), &json!(0.2)));
    assert_eq!((&found["escape_of_all"], &found["thinned"]), (&json!(0.02 * 0.25), &json!(7)));
    assert_eq!(found["passed"], json!({"inspected": 2000, "decided": 1000}));
    assert_eq!(found["needed"], json!([{"escape": 0.02, "defective": 299}]));

    // What is not asked for is 1 % with 95 % confidence.
    let found = ask("/api/v1/thresholds/nuts").json();
    assert_eq!(
        (&found["escape"], &found["confidence"], &found["false_fail"]),
        (&json!(0.01), &json!(0.95), &json!(0.01))
    );
    for wrong in ["escape=0", "escape=0.6", "confidence=95", "false_fail=1", "share=0.1"] {
        let answer = ask(&format!("/api/v1/thresholds/nuts?{wrong}"));
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.head);
    }
    let unknown = ask("/api/v1/thresholds/bolts");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "no_pipeline"));
}
