//! The service on a log in memory.

use claviger_core::{Caller, ErrorKind, ManualClock, Timestamp};
use object_store::memory::InMemory;

use super::*;

const HOUR_MICROS: i64 = 3_600_000_000;
const START: i64 = 1_700_000_000_000_000;

fn key(project: &str) -> String {
    format!("projects/{project}/locations/us-east1/keyRings/r/cryptoKeys/k")
}

/// For each of so many hours: the key of `birds` is used for a job, that of `owls` for nothing.
async fn api(hours: i64) -> LoggingApi {
    let clock = Arc::new(ManualClock::at(Timestamp(START)));
    let audit = AuditLog::open(Arc::new(InMemory::new()), clock.clone()).await.unwrap();
    let admin = Caller::local_admin();
    let made = Entry::new("cloudkms.googleapis.com", "CreateCryptoKey", key("birds"), &admin);
    audit.append(made).await.unwrap();
    for hour in 0..hours {
        clock.jump_to(Timestamp(START + hour * HOUR_MICROS));
        let agent = Caller::new("serviceAccount:a@b").with("job_id", format!("job-{}", hour % 3));
        let uses = [(key("birds"), &agent), (key("owls"), &admin)];
        let uses = uses.map(|(key, who)| Entry::new("cloudkms.googleapis.com", "Encrypt", key, who));
        futures::future::try_join_all(uses.map(|entry| audit.append(entry))).await.unwrap();
    }
    LoggingApi::new(Arc::new(audit))
}

fn request(filter: &str, order: &str, size: i32) -> pb::ListLogEntriesRequest {
    pb::ListLogEntriesRequest {
        resource_names: vec!["projects/birds".into()],
        filter: filter.into(),
        order_by: order.into(),
        page_size: size,
        page_token: String::new(),
    }
}

/// The numbers of all entries of a list, page by page, and how many pages there were.
async fn all(api: &LoggingApi, mut request: pb::ListLogEntriesRequest) -> (Vec<u64>, usize) {
    let (mut numbers, mut pages) = (Vec::new(), 0);
    loop {
        let page = api.entries(request.clone()).await.unwrap();
        assert!(page.entries.len() <= usize::try_from(request.page_size).unwrap());
        numbers.extend(page.entries.iter().map(|entry| entry.insert_id.parse::<u64>().unwrap()));
        pages += 1;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return (numbers, pages);
        }
    }
}

#[tokio::test]
async fn a_project_sees_its_own_keys_alone_in_both_orders() {
    let api = api(30).await;
    let (oldest, _) = all(&api, request("", "", 1000)).await;
    assert_eq!((oldest.len(), oldest.first()), (31, Some(&1)));
    assert!(oldest.is_sorted());
    let (mut newest, pages) = all(&api, request("", "timestamp  DESC", 7)).await;
    newest.reverse();
    assert_eq!((newest, pages), (oldest, 5));
    let both = pb::ListLogEntriesRequest {
        resource_names: vec!["projects/birds".into(), "projects/owls".into()],
        ..request("log_id(\"cloudaudit.googleapis.com/data_access\")", "", 1000)
    };
    assert_eq!(all(&api, both).await.0.len(), 60);
    let nobody =
        pb::ListLogEntriesRequest { resource_names: vec!["projects/bird".into()], ..request("", "", 1000) };
    assert_eq!(all(&api, nobody).await.0.len(), 0);
}

#[tokio::test]
async fn a_jobs_id_and_times_select() {
    let api = api(30).await;
    let (found, _) = all(&api, request("labels.job_id=\"job-1\"", "", 4)).await;
    assert_eq!(found.len(), 10);
    let day = "timestamp>=\"2023-11-15T10:13:20Z\" AND timestamp<\"2023-11-15T13:13:20Z\"";
    assert_eq!(all(&api, request(day, "timestamp desc", 2)).await.0.len(), 3);
    assert_eq!(all(&api, request(&format!("{day} labels.job_id=\"job-1\""), "", 2)).await.0.len(), 1);
}

#[tokio::test]
async fn a_call_looks_at_a_bounded_part_and_an_empty_page_goes_on() {
    let api = api(1).await;
    let others = (0..MAX_SCAN).map(|_| {
        let entry = Entry::new("cloudkms.googleapis.com", "Decrypt", key("owls"), &Caller::local_admin());
        api.audit.append(entry)
    });
    futures::future::try_join_all(others).await.unwrap();
    let page =
        api.entries(request("protoPayload.methodName=CreateCryptoKey", "timestamp desc", 10)).await.unwrap();
    assert!(page.entries.is_empty() && !page.next_page_token.is_empty());
    let (found, pages) =
        all(&api, request("protoPayload.methodName=CreateCryptoKey", "timestamp desc", 10)).await;
    assert_eq!((found, pages), (vec![1], 2));
}

#[tokio::test]
async fn a_token_of_another_list_is_refused() {
    let api = api(10).await;
    let first = api.entries(request("severity>=INFO", "", 3)).await.unwrap();
    for other in [
        request("severity>=DEBUG", "", 3),
        request("severity>=INFO", "timestamp desc", 3),
        pb::ListLogEntriesRequest {
            resource_names: vec!["projects/owls".into()],
            ..request("severity>=INFO", "", 3)
        },
    ] {
        let stolen = pb::ListLogEntriesRequest { page_token: first.next_page_token.clone(), ..other };
        assert_eq!(api.entries(stolen).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let larger = pb::ListLogEntriesRequest {
        page_token: first.next_page_token,
        ..request("severity>=INFO", "timestamp asc", 1000)
    };
    assert_eq!(api.entries(larger).await.unwrap().entries.len(), 8, "another size is the same list");
}

#[tokio::test]
async fn names_of_logs_are_those_that_have_entries() {
    let api = api(3).await;
    let name =
        |project: &str, log: &str| format!("projects/{project}/logs/cloudaudit.googleapis.com%2F{log}");
    let ask = |parent: &str, more: &[&str], size, token: &str| pb::ListLogsRequest {
        parent: parent.into(),
        resource_names: more.iter().map(|name| (*name).to_owned()).collect(),
        page_size: size,
        page_token: token.into(),
    };
    let birds = api.logs(ask("projects/birds", &[], 0, "")).await.unwrap();
    assert_eq!(birds.log_names, [name("birds", "activity"), name("birds", "data_access")]);
    assert_eq!(birds.next_page_token, "");
    let owls = api.logs(ask("projects/owls", &[], 0, "")).await.unwrap();
    assert_eq!(owls.log_names, [name("owls", "data_access")]);
    let mut told = Vec::new();
    let mut token = String::new();
    loop {
        let page = api.logs(ask("projects/birds", &["projects/owls"], 1, &token)).await.unwrap();
        told.extend(page.log_names);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    told.sort();
    assert_eq!(told, [name("birds", "activity"), name("birds", "data_access"), name("owls", "data_access")]);
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let api = api(1).await;
    for (names, kind) in [
        (vec![], ErrorKind::InvalidArgument),
        (vec!["birds"], ErrorKind::InvalidArgument),
        (vec!["projects/birds"; MAX_RESOURCES + 1], ErrorKind::InvalidArgument),
        (vec!["organizations/1"], ErrorKind::Unimplemented),
        (vec!["projects/birds/locations/global/buckets/b/views/v"], ErrorKind::Unimplemented),
        (vec!["projects/1234"], ErrorKind::Unimplemented),
        (vec!["projects/claviger-managed"], ErrorKind::PermissionDenied),
    ] {
        let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
        let asked = pb::ListLogEntriesRequest { resource_names, ..request("", "", 1) };
        assert_eq!(api.entries(asked).await.unwrap_err().kind(), kind, "{names:?}");
    }
    for asked in [
        request("severity>=", "", 1),
        request("", "severity asc", 1),
        request("", "", -1),
        pb::ListLogEntriesRequest { page_token: "x".into(), ..request("", "", 1) },
    ] {
        assert_eq!(
            api.entries(asked.clone()).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{asked:?}"
        );
    }
}
