//! A machine that is checked again by a form.

use switchback_control::Turn;
use switchback_model::AccessRole;
use switchback_sites::Site;

use crate::browser::Server;

const MACHINE: &str = "/portal/machines/web01";

#[tokio::test]
async fn a_machine_is_checked_again_by_a_form_and_the_job_says_what_still_holds() {
    let mut server = Server::new();
    server.protect();
    server.world.home.take_snapshot("web01", "before <b>");
    server.world.control.readiness(&"web01".parse().unwrap()).unwrap();
    let mut ends = Vec::new();
    for user in ["still-there", "gone"] {
        let mut oscar = server.signed_in(user, AccessRole::Operator).await;
        assert!(oscar.page(MACHINE).await.contains("id=\"do-check\""));
        let page = oscar.page("/portal/machines/web01/check").await;
        assert!(page.contains("web01 at home has &#34;before &#60;b&#62;&#34;"), "{page}");
        let sent = oscar.post("/portal/machines/web01/check", &[]).await;
        let job = sent.location().to_owned();
        drop(oscar);
        if user == "gone" {
            Site::delete_snapshot(&*server.world.home, "web01", "before <b>").unwrap();
        }
        // Its components report meanwhile.
        (0..3).for_each(|_| {
            while server.world.control.work_once(None).unwrap() != Turn::Idle {}
            server.world.round();
        });
        ends.push(server.signed_in(&format!("{user}-2"), AccessRole::Reader).await.page(&job).await);
    }
    assert!(ends[0].contains("failed") && ends[0].contains("still: "), "{}", ends[0]);
    assert!(ends[1].contains("succeeded") && ends[1].contains("gone: "), "{}", ends[1]);
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    assert!(!reader.page(MACHINE).await.contains("do-check"));
    assert_eq!(reader.get("/portal/machines/web01/check").await.status, 403);
    assert_eq!(reader.post("/portal/machines/web01/check", &[]).await.status, 403);
}
