//! `claviger org-policies` against a server.

use crate::common::Server;

const NAME: &str = "projects/birds/policies/gcp.restrictNonCmekServices";

#[test]
fn a_policy_is_set_shown_listed_reset_and_removed() {
    let server = Server::start();
    let file = |name: &str, text: &str| std::fs::write(server.folder.path().join(name), text).unwrap();
    file(
        "policy.yaml",
        &format!(
            "name: {NAME}\nspec:\n  rules:\n  - values:\n      deniedValues: [is:storage.googleapis.com]\n"
        ),
    );
    server.refused("org-policies describe gcp.restrictNonCmekServices", "none is set");
    assert!(server.ok("org-policies set-policy policy.yaml").err.contains(&format!("Set policy [{NAME}].")));
    let refused =
        server.refused("storage buckets create gs://birds-1 --location us-east1", "violates constraint");
    assert!(refused.contains("org-policies describe gcp.restrictNonCmekServices"), "{refused}");

    let shown =
        server.ok("org-policies describe constraints/gcp.restrictNonCmekServices --format json").json();
    assert_eq!(shown["spec"]["rules"][0]["values"]["deniedValues"][0], "is:storage.googleapis.com");
    let effective =
        server.ok("org-policies describe gcp.restrictNonCmekServices --effective --format json").json();
    assert_eq!(effective["spec"]["rules"][0]["values"]["deniedValues"][0], "storage.googleapis.com");
    server.ok("org-policies list").row("gcp.restrictNonCmekServices");
    let all = server.ok("org-policies list --show-unset --format json").json();
    assert_eq!(all.as_array().unwrap().len(), 5);

    file("tried.json", &format!(r#"{{"name": "{NAME}", "dryRunSpec": {{"rules": [{{"denyAll": true}}]}}}}"#));
    server.refused("org-policies set-policy tried.json", "update_mask");
    server.ok("org-policies set-policy tried.json --update-mask dry_run_spec");
    assert!(server.ok("org-policies list").out.contains("LIVE_AND_DRY_RUN_SET"));
    server.ok("org-policies reset gcp.restrictNonCmekServices");
    server.ok("storage buckets create gs://birds-1 --location us-east1");
    let reset = server.ok("org-policies describe gcp.restrictNonCmekServices --format json").json();
    assert_eq!(
        (&reset["spec"]["reset"], &reset["dryRunSpec"]["rules"][0]["denyAll"]),
        (&true.into(), &true.into())
    );

    server.refused("org-policies delete gcp.restrictNonCmekServices --etag old", "not current");
    server.ok("org-policies delete gcp.restrictNonCmekServices");
    server.ok("org-policies reset cloudkms.disableBeforeDestroy");
    let left = server.ok("org-policies list --format json").json();
    assert_eq!(left[0]["name"], "projects/birds/policies/cloudkms.disableBeforeDestroy");
    file(
        "typo.yaml",
        &format!("name: {NAME}\nspec:\n  rules:\n  - values:\n      deniedValues: [bigtabel]\n"),
    );
    server.refused("org-policies set-policy typo.yaml", "bigtabel");
}
