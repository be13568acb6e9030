//! In front of an HTTP service the header is the service's.

use super::is_replayed;
use crate::access::Yes;
use crate::upstream;

#[test]
fn a_key_is_passed_on_to_a_service_as_it_is() {
    let (dir, service) = (tempfile::tempdir().expect("a directory"), Yes::start());
    let gate = upstream::gate(
        dir.path(),
        &format!("[[resource]]\nname = \"app\"\nkind = \"http\"\nupstream = \"http://{}\"\n", service.addr),
    );
    for key in ["\"8e03978e\"", "not, a key at all"] {
        for _ in 0..2 {
            let headers = [("fencing-token", "5"), ("idempotency-key", key)];
            let answer = gate.client().request("POST", "/a", &headers, b"").expect("an answer");
            assert_eq!((answer.status, is_replayed(&answer)), (200, false), "{answer:?}");
        }
        let line = format!("idempotency-key: {key}\r\n");
        let heads = service.heads.lock().expect("no panic");
        assert_eq!(heads.iter().filter(|head| head.to_lowercase().contains(&line)).count(), 2, "{heads:?}");
    }
    let claimed = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "5")], b"");
    assert_eq!(claimed.expect("an answer").header("idempotency-retention"), None);
}
