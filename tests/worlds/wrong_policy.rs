//! A wrong policy: what a proxy does instead, what it says, and how it gets back to a good one.

use graygate::proxy::Level;
use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// Returns a policy whose gate on a cluster that is down replies with this status.
fn gated(name: &str, status: u16) -> Value {
    json!({
        "name": name,
        "upstreams": {"app": {"cluster": "app", "force": "notReady"}},
        "gates": [{"upstream": "app", "reply": {"status": status}}],
    })
}

fn last_good(mut document: Value) -> Value {
    document["onWrongPolicy"] = json!("lastGood");
    document
}

/// Returns the document with a key that no policy has.
fn wrong(mut document: Value) -> Value {
    document["gatse"] = json!([]);
    document
}

/// Returns a world that has had this document in use.
fn used(document: &Value, workers: usize) -> World {
    let mut world = World::new(document, workers);
    world.set("app", Manner::Status(200));
    use_it(&mut world);
    world
}

/// Sends a request to each worker and waits for a tick.
fn use_it(world: &mut World) {
    all(world);
    world.pass(SECOND);
}

fn status(world: &mut World, vm: usize) -> u16 {
    world.ask(vm, &Request::get("/")).status
}

fn all(world: &mut World) -> Vec<u16> {
    (0..world.workers()).map(|vm| status(world, vm)).collect()
}

fn refused(world: &World) -> u64 {
    world.metric("policy_refused", &["plugin=plugin"])
}

/// Returns the only log line that contains this text. It is an error.
fn error(world: &World, text: &str) -> String {
    let found = world.logged_at(text);
    assert!(found.iter().all(|(level, _)| *level == Level::Error), "{found:?}");
    found.last().unwrap_or_else(|| panic!("no {text:?} in {:?}", world.around.log.borrow())).1.clone()
}

#[test]
fn a_wrong_policy_is_refused_unless_it_says_otherwise() {
    for choice in [None, Some(json!("refuse")), Some(json!("lastgood")), Some(json!(1)), Some(json!(null))] {
        let mut world = used(&last_good(gated("shop", 429)), 1);
        assert_eq!(refused(&world), 0);
        let mut document = wrong(gated("shop", 418));
        if let Some(choice) = &choice {
            document["onWrongPolicy"] = choice.clone();
        }
        assert!(!world.configure(&document), "{choice:?}");
        assert_eq!(refused(&world), 1);
    }
}

#[test]
fn an_invalid_choice_is_a_problem() {
    let mut world = World::unconfigured(1);
    let mut document = gated("shop", 418);
    document["onWrongPolicy"] = json!("lastgood");
    assert!(!world.configure(&document));
    let line = error(&world, "onWrongPolicy");
    assert!(line.contains("refuse, lastGood; did you mean \"lastGood\"?"), "{line}");
}

#[test]
fn the_last_good_document_goes_on_in_place_of_a_wrong_one_until_a_good_one_comes() {
    let mut world = used(&last_good(gated("shop", 429)), 3);
    for round in 0..2u16 {
        assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
        assert_eq!((all(&mut world), refused(&world)), (vec![429 + round; 3], 1), "at once");
        world.pass(SECOND);
        assert_eq!((all(&mut world), refused(&world)), (vec![429 + round; 3], 1));
        assert_eq!(
            error(&world, "stays in use"),
            "policy shop: refused, and its last good document stays in use"
        );
        assert!(error(&world, "gatse").starts_with("policy refused: gatse: unknown field"));
        assert!(world.configure(&last_good(gated("shop", 430 + round))));
        assert_eq!(all(&mut world), [430 + round; 3]);
        world.pass(SECOND);
        assert_eq!((all(&mut world), refused(&world)), (vec![430 + round; 3], 0));
    }
    world.pass(65 * SECOND);
    assert_eq!(counted(&world), 6, "once in each VM");
}

#[test]
fn the_counter_of_wrong_documents_is_at_0_for_as_long_as_a_scrape_takes_to_see_it() {
    let document = wrong(last_good(gated("shop", 418)));
    let mut world = World::unconfigured(2);
    assert!(world.configure(&document));
    assert!(world.metric_names().contains("graygate_policies_refused_total.plugin=.=plugin;.;"));
    assert_eq!(refused(&world), 1, "the gauge does not wait");
    world.pass(60 * SECOND);
    assert_eq!(counted(&world), 0);
    world.pass(6 * SECOND);
    assert_eq!(counted(&world), 2);
    assert!(world.configure(&document));
    assert_eq!(counted(&world), 4, "at once, as the counter has been there");
    world.pass(70 * SECOND);
    assert_eq!(counted(&world), 4);
}

#[test]
fn a_wrong_document_is_counted_at_once_if_its_vm_ends() {
    let mut world = World::unconfigured(1);
    assert!(!world.configure(&wrong(gated("shop", 418))), "refused");
    assert_eq!(counted(&world), 1);
    let mut world = World::unconfigured(1);
    assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
    assert_eq!(counted(&world), 0);
    world.end_root(0, 0);
    assert_eq!(counted(&world), 1);
}

fn counted(world: &World) -> u64 {
    world.metric("policies_refused_total", &["plugin=plugin"])
}

#[test]
fn requests_pass_unmanaged_if_the_proxy_has_had_no_good_document_of_that_name() {
    for document in [wrong(last_good(gated("shop", 418))), json!({"onWrongPolicy": "lastGood", "name": 1})] {
        let mut world = World::unconfigured(2);
        world.set("app", Manner::Status(200));
        assert!(world.configure(&document));
        for _ in 0..2 {
            assert_eq!((all(&mut world), refused(&world)), (vec![200; 2], 1));
            world.pass(SECOND);
        }
        assert!(error(&world, "unmanaged").contains("this proxy has no earlier good document"));
        // The document counts once its counter has been at 0 for a scrape.
        world.pass(70 * SECOND);
        assert_eq!(world.tick_of(0), 0);
        assert!(world.configure(&last_good(gated("shop", 429))));
        use_it(&mut world);
        assert_eq!((all(&mut world), refused(&world)), (vec![429; 2], 0));
    }
}

/// An operator who stops the filter may do so while its document is wrong.
#[test]
fn the_mode_of_a_wrong_document_limits_that_of_the_last_good_one() {
    let mut world = World::new(&last_good(gated("shop", 429)), 2);
    world.set("app", Manner::Status(200));
    assert_eq!(all(&mut world), [429; 2]);
    world.pass(SECOND);
    for (mode, expected) in [("enforce", 429), ("shadow", 200), ("off", 200), ("of", 429)] {
        let mut document = wrong(last_good(gated("shop", 418)));
        document["mode"] = json!(mode);
        assert!(world.configure(&document));
        assert_eq!(all(&mut world), [expected; 2], "{mode}");
        world.pass(SECOND);
        assert_eq!((all(&mut world), refused(&world)), (vec![expected; 2], 1), "{mode}");
        let list =
            json!({"mode": mode, "policies": [wrong(gated("shop", 418))], "onWrongPolicy": "lastGood"});
        assert!(world.configure(&list));
        world.pass(SECOND);
        assert_eq!((all(&mut world), refused(&world)), (vec![expected; 2], 1), "{mode} beside policies");
    }
}

#[test]
fn a_document_that_was_never_in_use_is_no_last_good_one() {
    let mut world = used(&last_good(gated("shop", 429)), 2);
    // Another filter takes its time before Envoy refuses the listener, and roots tick meanwhile.
    assert!(world.configure(&last_good(gated("shop", 418))));
    world.pass(4 * SECOND);
    (0..2).for_each(|vm| world.end_root(vm, 1));
    world.pass(10 * SECOND);
    assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
    assert_eq!(all(&mut world), [429; 2]);
}

#[test]
fn a_document_without_requests_is_in_use_after_some_seconds() {
    for mode in ["enforce", "off"] {
        let mut document = last_good(gated("shop", 429));
        document["mode"] = json!(mode);
        let mut world = World::new(&document, 1);
        assert_eq!(world.tick_of(0), 50);
        world.set("app", Manner::Status(200));
        world.pass(6 * SECOND);
        assert_eq!((world.tick_of(0), refused(&world)), (0, 0));
        assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
        assert_eq!(all(&mut world), [if mode == "off" { 200 } else { 429 }]);
    }
}

#[test]
fn a_new_vm_goes_on_with_what_the_others_had() {
    let mut world = used(&last_good(gated("shop", 429)), 2);
    assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
    world.pass(SECOND);
    world.kill(1);
    assert!(world.configure_vm(1));
    assert_eq!(all(&mut world), [429; 2]);
    world.pass(SECOND);
    assert_eq!((all(&mut world), refused(&world)), (vec![429; 2], 1));
}

#[test]
fn the_last_good_document_is_kept_whatever_it_says_about_wrong_ones() {
    let mut world = used(&gated("shop", 429), 1);
    assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
    assert_eq!(all(&mut world), [429]);
}

#[test]
fn what_a_wrong_policy_was_about_keeps_its_state() {
    let mut document = last_good(gated("shop", 429));
    document["upstreams"]["app"] = json!({
        "cluster": "app", "circuitBreaker": {"consecutiveFailures": 3, "notReadyFor": "1h"},
    });
    let mut world = used(&document, 2);
    world.set("app", Manner::Status(500));
    for _ in 0..4 {
        world.ask(0, &Request::get("/"));
        world.pass(100 * MS);
    }
    assert_eq!(all(&mut world), [429; 2]);
    assert!(world.configure(&wrong(document)));
    (0..2).for_each(|vm| world.end_earlier(vm));
    world.pass(5 * SECOND);
    assert_eq!(all(&mut world), [429; 2]);
    assert_eq!(world.metric("transitions_total", &[]), 1);
}

#[test]
fn a_document_is_written_once_for_all_vms() {
    let mut world = World::new(&last_good(gated("shop", 429)), 3);
    world.written();
    use_it(&mut world);
    let texts = |world: &mut World| {
        let written = world.written();
        written.iter().filter(|written| written.key == "graygate/shop/last-good/plugin").count()
    };
    assert_eq!(texts(&mut world), 1);
    world.kill(0);
    world.configure_vm(0);
    assert!(world.configure(&last_good(gated("shop", 429))));
    use_it(&mut world);
    assert!(world.configure(&wrong(last_good(gated("shop", 429)))));
    use_it(&mut world);
    assert_eq!(texts(&mut world), 0);
    assert!(world.configure(&last_good(gated("shop", 430))));
    use_it(&mut world);
    assert_eq!(texts(&mut world), 1);
}

#[test]
fn a_document_whose_name_cannot_be_read_is_replaced_by_what_the_plugin_had_last() {
    for name in [json!("Shop"), json!(null), json!(["shop"])] {
        let mut world = used(&last_good(gated("shop", 429)), 1);
        let mut document = last_good(gated("shop", 418));
        document["name"] = name;
        assert!(world.configure(&document));
        assert_eq!(all(&mut world), [429]);
        assert_eq!(
            error(&world, "stays in use"),
            "policy shop: refused, and its last good document stays in use"
        );
    }
    // No text that is not JSON says what to do.
    let mut world = used(&last_good(gated("shop", 429)), 1);
    assert!(!world.configure(&json!("text")));
}

fn for_host(name: &str, status: u16) -> Value {
    let mut policy = gated(name, status);
    policy["hosts"] = json!([format!("{name}.shop")]);
    policy
}

fn list(policies: &[Value]) -> Value {
    json!({"policies": policies, "onWrongPolicy": "lastGood"})
}

fn at(world: &mut World, name: &str) -> u16 {
    let mut request = Request::get("/");
    request.headers[2].1 = format!("{name}.shop");
    world.ask(0, &request).status
}

fn statuses(world: &mut World) -> [u16; 3] {
    ["a", "b", "c"].map(|name| at(world, name))
}

#[test]
fn one_wrong_policy_of_several_leaves_the_others_new() {
    let mut world = used(&list(&[for_host("a", 421), for_host("b", 421), for_host("c", 421)]), 1);
    let document = list(&[for_host("a", 422), wrong(for_host("b", 422)), for_host("c", 422)]);
    assert!(world.configure(&document));
    assert_eq!((statuses(&mut world), refused(&world)), ([422, 421, 422], 1));
    world.pass(SECOND);
    assert_eq!((statuses(&mut world), refused(&world)), ([422, 421, 422], 1));
    assert!(error(&world, "gatse").starts_with("policy refused: policies[1].gatse: unknown field"));
    assert_eq!(error(&world, "stays in use"), "policy b: refused, and its last good document stays in use");
    // Without the key, the whole document is refused.
    let mut refusing = document;
    refusing.as_object_mut().unwrap().remove("onWrongPolicy");
    assert!(!world.configure(&refusing));
}

#[test]
fn a_new_policy_that_is_wrong_leaves_its_requests_unmanaged_and_the_others_new() {
    let mut world = used(&list(&[for_host("a", 421)]), 1);
    assert!(world.configure(&list(&[wrong(for_host("b", 422)), for_host("a", 422)])));
    assert_eq!(statuses(&mut world), [422, 200, 200]);
    assert!(error(&world, "unmanaged").starts_with("policy b: refused, and this proxy has no earlier good"));
}

#[test]
fn a_policy_whose_name_cannot_be_read_is_one_that_the_list_no_longer_names() {
    let mut world = used(&list(&[for_host("a", 421), for_host("b", 421), for_host("c", 421)]), 1);
    let mut unnamed = for_host("b", 422);
    unnamed["name"] = json!("B");
    assert!(world.configure(&list(&[for_host("a", 422), unnamed, for_host("c", 422)])));
    assert_eq!(statuses(&mut world), [422, 421, 422]);
    world.pass(SECOND);
    assert_eq!(statuses(&mut world), [422, 421, 422]);
    // A list that cannot be read at all names none of them.
    for policies in [json!({}), json!([]), json!([1])] {
        assert!(world.configure(&json!({"policies": policies, "onWrongPolicy": "lastGood"})));
        world.pass(SECOND);
        assert_eq!(statuses(&mut world), [422, 421, 422], "{policies}");
    }
}

#[test]
fn a_second_policy_of_a_name_and_one_without_requests_leave_the_others_as_they_are() {
    let mut world = used(&list(&[for_host("a", 421), for_host("b", 421)]), 1);
    let mut stolen = for_host("b", 422);
    stolen["hosts"] = json!(["a.shop"]);
    for extra in [for_host("a", 418), stolen] {
        assert!(world.configure(&list(&[for_host("a", 422), extra])));
        assert_eq!(at(&mut world, "a"), 422);
    }
    assert_eq!(at(&mut world, "b"), 421, "the last good document of b has its own host");
    // A policy for every host that comes first by mistake takes nothing from the others.
    assert!(world.configure(&list(&[gated("all", 418), for_host("a", 423), for_host("b", 423)])));
    assert_eq!(statuses(&mut world), [423, 423, 200]);
}

#[test]
fn the_last_good_document_of_another_plugin_or_name_does_not_go_on() {
    let mut world = used(&last_good(gated("shop", 429)), 1);
    assert!(world.configure(&wrong(last_good(gated("other", 418)))));
    assert_eq!(all(&mut world), [200]);
    world.around.plugin.replace("another");
    assert!(world.configure(&wrong(last_good(gated("shop", 418)))));
    assert_eq!(all(&mut world), [200]);
}

#[test]
fn a_good_document_that_settles_late_does_not_hide_that_a_newer_one_is_wrong() {
    let mut world = World::new(&gated("shop", 429), 3);
    world.pass(50 * MS);
    assert!(!world.configure(&wrong(gated("shop", 430))));
    for _ in 0..10 {
        assert_eq!(refused(&world), 1);
        all(&mut world);
        world.pass(SECOND);
    }
    assert!(world.configure(&gated("shop", 431)));
    use_it(&mut world);
    assert_eq!(refused(&world), 0);
}
