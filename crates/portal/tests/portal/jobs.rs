//! The tab Jobs, and a job's page.

use switchback_control::Turn;
use switchback_model::{AccessRole, ItemOperation, Job, JobId, JobState};

use crate::browser::Server;
use crate::world::protect;

/// Turns that any job ends within.
const TURNS_MAX: usize = 400;

/// Works until a job has ended or waits for somebody.
pub(crate) fn settle_job(server: &mut Server, id: JobId) -> Job {
    for _ in 0..TURNS_MAX {
        let job = server.world.control.job(id).unwrap();
        if job.state.is_final() || job.state == JobState::Suspended {
            return job;
        }
        if server.world.control.work_once(None).unwrap() == Turn::Idle {
            server.world.round();
        }
    }
    panic!("it does not end: {:#?}", server.world.control.job(id).unwrap());
}

#[tokio::test]
async fn jobs_are_listed_newest_first_filtered_and_paged() {
    let mut server = Server::new();
    let empty = server.signed_in("first", AccessRole::Reader).await.page("/portal/jobs").await;
    assert!(empty.contains("No job has been asked for yet"), "{empty}");
    server.protect();
    for _ in 0..51 {
        let name = "web01".parse().unwrap();
        let job = server.world.control.operate("anna", &name, ItemOperation::Resynchronize).unwrap();
        assert_eq!(settle_job(&mut server, job.id).state, JobState::Succeeded);
    }
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/jobs").await;
    let count = |page: &str, text: &str| page.matches(text).count();
    assert_eq!((count(&page, ">Resynchronize</a>"), count(&page, ">Enable replication</a>")), (50, 0));
    assert!(
        page.contains("href=\"/portal/machines/web01\"")
            && page.contains("by anna")
            && !page.contains("Newest")
    );
    let older =
        page.split_once("id=\"older\" href=\"").unwrap().1.split_once('"').unwrap().0.replace("&#38;", "&");
    let page = reader.page(&older).await;
    assert_eq!((count(&page, ">Resynchronize</a>"), count(&page, ">Enable replication</a>")), (1, 1));
    assert!(page.contains("Newest") && !page.contains("id=\"older\""), "{page}");
    for (query, expected) in [
        ("q=WEB&state=succeeded", 50),
        ("q=db", 0),
        ("state=failed", 0),
        ("state=open", 0),
        ("state=nonsense", 50),
        ("after=nonsense", 50),
    ] {
        let page = reader.page(&format!("/portal/jobs?{query}")).await;
        assert_eq!(count(&page, ">Resynchronize</a>"), expected, "{query}");
    }
}

#[tokio::test]
async fn a_job_that_failed_says_why_and_is_restarted() {
    let mut server = Server::new();
    *server.world.recovery.full.lock().unwrap() = true;
    let id = server.world.control.protect("<b>tester</b>", protect()).unwrap().id;
    assert_eq!(settle_job(&mut server, id).state, JobState::Failed);
    let error = server.world.control.job(id).unwrap().tasks.into_iter().find_map(|task| task.error).unwrap();
    let path = format!("/portal/jobs/{id}");
    let mut operator = server.signed_in("anna", AccessRole::Operator).await;
    let page = operator.page(&path).await;
    for shown in ["class=\"badge bad\">failed<", &error.code, "id=\"do-restart\"", "&#60;b&#62;tester"] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("id=\"do-cancel\"") && !page.contains("<b>tester"), "{page}");
    let refused = operator.get(&format!("{path}/cancel")).await;
    assert!(refused.status == 409 && refused.text.contains("it is Failed"), "{}", refused.text);
    let page = operator.page(&format!("{path}/restart")).await;
    assert!(page.contains("It failed") && page.contains("begins again at the task that failed"), "{page}");
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    assert!(!reader.page(&path).await.contains("id=\"do-"));
    assert_eq!(reader.get(&format!("{path}/restart")).await.status, 403);
    assert_eq!(reader.post(&format!("{path}/restart"), &[]).await.status, 403);
    assert_eq!(server.world.control.job(id).unwrap().state, JobState::Failed);
    *server.world.recovery.full.lock().unwrap() = false;
    let mut operator = server.signed_in("berta", AccessRole::Operator).await;
    operator.page(&path).await;
    assert_eq!(operator.post(&format!("{path}/restart"), &[]).await.location(), path);
    assert_eq!(operator.post(&format!("{path}/nonsense"), &[]).await.status, 404);
    drop((operator, reader));
    assert_eq!(settle_job(&mut server, id).state, JobState::Succeeded);
}

#[tokio::test]
async fn a_job_in_hand_shows_its_progress_and_is_cancelled() {
    let mut server = Server::new();
    server.protect();
    let name = "web01".parse().unwrap();
    let point = switchback_model::PointChoice::Latest;
    let job = server.world.control.operate("anna", &name, ItemOperation::TestFailover { point }).unwrap();
    server.world.control.work_once(None).unwrap();
    let path = format!("/portal/jobs/{}", job.id);
    let mut operator = server.signed_in("anna", AccessRole::Operator).await;
    let page = operator.page(&path).await;
    for shown in [
        "in progress<",
        "<progress",
        "Prerequisites check for test failover",
        "sse-connect",
        "id=\"do-cancel\"",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let list = operator.page("/portal/jobs?state=open").await;
    assert!(list.contains("2 of 3: Create the test virtual machine"), "{list}");
    assert!(operator.page(&format!("{path}/cancel")).await.contains("undone, as far as that is possible"));
    assert_eq!(operator.post(&format!("{path}/cancel"), &[]).await.location(), path);
    let page = operator.page(&path).await;
    assert!(page.contains("is to be cancelled") && !page.contains("id=\"do-cancel\""), "{page}");
    assert_eq!(operator.get(&format!("{path}/report")).await.status, 404);
    assert_eq!(operator.get("/portal/jobs/%3Cscript%3E").await.status, 404);
    drop(operator);
    assert_eq!(settle_job(&mut server, job.id).state, JobState::Cancelled);
    let mut operator = server.signed_in("berta", AccessRole::Operator).await;
    assert!(operator.page(&path).await.contains(">cancelled<"));
}
