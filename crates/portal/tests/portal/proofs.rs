//! Proofs of recovery points: asked for by a form, shown with their pictures, and set on schedule.

use switchback_control::Turn;
use switchback_model::AccessRole;
use switchback_sites::Sight;

use crate::browser::Server;

const MACHINE: &str = "/portal/machines/web01";
const PICTURE: &[u8] = b"\x89PNG and more";
/// Turns of the executor and rounds of the world that a proof ends within.
const TURNS_MAX: usize = 200;

/// Until what is in hand has ended.
fn work(server: &mut Server) {
    for _ in 0..TURNS_MAX {
        if server.world.control.work_once(None).unwrap() == Turn::Idle {
            server.world.round();
            if server.world.control.items().unwrap().iter().all(|view| view.item.proving.in_hand.is_none()) {
                return;
            }
        }
    }
    panic!("the proof does not end: {:#?}", server.world.control.jobs(None, None, 1, |_| true).unwrap());
}

#[tokio::test]
async fn a_point_is_booted_and_its_verdict_shown_with_the_picture() {
    let mut server = Server::new();
    server.protect();
    "booting <b>\r\nweb01 login: ".clone_into(&mut server.world.recovery.sandboxes_say.lock().unwrap());
    *server.world.recovery.sight.lock().unwrap() = Sight { picture: PICTURE.to_vec(), ..Sight::default() };
    let mut olga = server.signed_in("olga", AccessRole::Operator).await;
    let page = olga.page(MACHINE).await;
    assert!(page.contains("id=\"do-verify\"") && !page.contains("id=\"do-proving\""), "{page}");
    let page = olga.page("/portal/machines/web01/verify").await;
    assert!(page.contains("without a network") && page.contains("value=\"latest-processed\""), "{page}");
    let bad = [("point", "latest-processed"), ("pattern", "(["), ("within", "10m")];
    let refused = olga.post("/portal/machines/web01/verify", &bad).await;
    assert!(refused.status == 400 && refused.text.contains("unclosed character class"), "{}", refused.text);
    let never = olga.post("/portal/machines/web01/verify", &[("point", "1"), ("within", "soon")]).await;
    assert_eq!(never.status, 400);
    let fields = [("point", "1"), ("pattern", ""), ("within", "10m")];
    let sent = olga.post("/portal/machines/web01/verify", &fields).await;
    assert!(sent.location().starts_with("/portal/jobs/"), "{}", sent.location());
    drop(olga);
    work(&mut server);

    let mut reader = server.signed_in("rita", AccessRole::Reader).await;
    let page = reader.page(MACHINE).await;
    assert!(!page.contains("id=\"do-verify\""), "{page}");
    assert!(page.contains("id=\"last-proof\"") && page.contains("point 1, "), "{page}");
    let address = page.split_once("href=\"/portal/machines/web01/proofs/").unwrap().1;
    let address = format!("/portal/machines/web01/proofs/{}", address.split_once('"').unwrap().0);
    let proof = reader.page(&address).await;
    for shown in
        [">passed<", "a login prompt", "booting &#60;b&#62;", "web01 login:", &format!("{address}/picture")]
    {
        assert!(proof.contains(shown), "{shown}: {proof}");
    }
    // The test reads text: a byte that is none takes three.
    let picture = reader.get(&format!("{address}/picture")).await;
    assert_eq!((picture.header("content-type"), picture.text.len()), ("image/png", PICTURE.len() + 2));
    assert_eq!(reader.get("/portal/machines/web01/proofs/0123").await.status, 404);
    assert_eq!(reader.get("/portal/machines/web01/verify").await.status, 403);
}

#[tokio::test]
async fn proofs_are_set_on_schedule() {
    let mut server = Server::new();
    server.protect();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/machines/web01/proving").await;
    assert!(page.contains("name=\"every\" value=\"0\""), "{page}");
    let fields = [("every", "1d"), ("pattern", "^app: ready$"), ("within", "5m")];
    assert_eq!(anna.post("/portal/machines/web01/proving", &fields).await.location(), MACHINE);
    let often = anna.post("/portal/machines/web01/proving", &[("every", "1s"), ("within", "5m")]).await;
    assert_eq!(often.status, 400, "{}", often.text);
    let proving = server.world.control.item(&"web01".parse().unwrap()).unwrap().item.proving;
    let probe = (proving.probe.pattern.as_deref(), proving.probe.limit_ms);
    assert_eq!((proving.every_ms, probe), (86_400_000, (Some("^app: ready$"), 300_000)));
    let page = anna.page("/portal/machines/web01/proving").await;
    assert!(page.contains("value=\"1d\"") && page.contains("value=\"^app: ready$\""), "{page}");
}
