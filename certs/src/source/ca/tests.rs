use std::sync::atomic::{AtomicI64, Ordering};

use remora_model::identity::KeyKind;
use tonic::Status;

use super::fixture::{FakeCa, World};
use super::*;
use crate::ca::fixture::{CATALOG, Ca, hours};
use crate::source::fixture::{serial, until, until_status};

const DAY: Duration = hours_of(24);

const fn hours_of(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

/// The machine's clock at first, then tokio's, which a test pauses.
fn clock() -> Clock {
    wound(&Arc::default())
}

/// The same, wound by so many seconds.
fn wound(by: &Arc<AtomicI64>) -> Clock {
    let (base, start, by) = (SystemTime::now(), Instant::now(), Arc::clone(by));
    Clock::of(move || {
        let seconds = by.load(Ordering::Relaxed);
        let (now, by) = (base + start.elapsed(), Duration::from_secs(seconds.unsigned_abs()));
        if seconds < 0 { now - by } else { now + by }
    })
}

fn down(_: &FakeCa, _: &str) -> Result<Vec<String>, Status> {
    Err(Status::unavailable("not today"))
}

fn well(fake: &FakeCa, csr: &str) -> Result<Vec<String>, Status> {
    Ok(fake.chain(csr, DAY))
}

#[tokio::test(start_paused = true)]
async fn renews_at_half_of_the_life_and_says_what_it_replaces() {
    let world = World::new(clock(), false);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    assert_eq!(first.svid().spiffe_id().as_str(), CATALOG);
    let planned = source.status().next_renewal().unwrap();
    std::fs::write(&world.client.token, "the.second.token").unwrap();

    let second = until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    let seen = world.seen();
    assert_eq!(seen.len(), 2);
    let waited = seen[1].at.duration_since(seen[0].at).unwrap();
    assert!(waited >= DAY.mul_f64(0.45) && waited <= DAY.mul_f64(0.55), "{waited:?}");
    assert!(seen[1].at >= planned && seen[1].at <= planned + Duration::from_secs(1));

    assert_eq!(seen[0].token.as_deref(), Some("Bearer the.first.token"));
    assert_eq!(seen[1].token.as_deref(), Some("Bearer the.second.token"), "read anew");
    assert_eq!((seen[0].replaces.as_deref(), seen[1].replaces.as_deref()), (None, Some(first.svid().serial())));
    assert_eq!((seen[0].with_certificate, seen[1].with_certificate), (false, true));
    assert_eq!(seen[0].instance, seen[1].instance);
    assert_eq!((seen[0].cluster.as_deref(), seen[0].wished), (Some("Kubernetes"), 86_400));
    assert_ne!(first.svid().certificates()[0], second.svid().certificates()[0]);
    let status = source.status();
    assert_eq!((status.kind(), status.succeeded(), status.failed(), status.last_error()), ("ca", 1, 0, None));
}

#[tokio::test]
async fn makes_keys_of_every_kind() {
    for (key, name) in [(KeyKind::P256, "ECDSA"), (KeyKind::Ed25519, "ED25519"), (KeyKind::Rsa2048, "RSA")] {
        let mut world = World::new(Clock::system(), false);
        world.client.key = key;
        let identity = until(&mut world.source().identity(), |_| true).await;
        let algorithm = identity.svid().certified_key().key.algorithm();
        assert!(format!("{algorithm:?}").eq_ignore_ascii_case(name), "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_down_costs_attempts_and_never_the_identity() {
    let world = World::new(clock(), false);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    world.behave(down);
    until_status(&source, |status| status.failed() >= 12).await;
    assert_eq!(serial(&updates).as_deref(), Some(first.svid().serial()), "the old one stays");
    let error = source.status().last_error().unwrap();
    assert!(error.contains("refused (Unavailable): not today"), "{error}");
    assert!(source.status().last_error_at().is_some());

    let seen = world.seen();
    let waits: Vec<_> =
        seen[1..].windows(2).map(|two| two[1].at.duration_since(two[0].at).unwrap().as_secs_f64()).collect();
    for (index, wait) in waits.iter().enumerate() {
        let doubled = 2_f64.powi(index as i32).clamp(2.0, 60.0);
        // An attempt itself may take a little of tokio's clock.
        assert!(*wait >= (doubled * 0.66 - 0.34).max(0.99) && *wait <= doubled + 1.0, "{index}: {waits:?}");
    }
    world.behave(well);
    let second = until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    assert!(second.generation() > first.generation());
    assert_eq!(source.status().last_error(), None);
}

#[tokio::test(start_paused = true)]
async fn recovers_alone_after_the_certificate_has_expired() {
    let mut world = World::new(clock(), true);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    world.stop().await;
    sleep(2 * DAY).await;
    assert_eq!(serial(&updates).as_deref(), Some(first.svid().serial()));
    let error = source.status().last_error().unwrap();
    let expected = format!("cannot reach the certificate authority {}: connection refused", world.client.address);
    assert_eq!(error, expected);
    let failed = source.status().failed();
    assert!((1000..6000).contains(&failed), "neither busy nor asleep: {failed}");
    world.restart(true);
    until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    assert!(!world.seen().last().unwrap().with_certificate, "an expired certificate is not shown");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_ended_a_moment_ago_is_shown_still() {
    let mut world = World::new(clock(), false);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    world.stop().await;
    // The next attempt is a minute and a third away at most.
    sleep(DAY + Duration::from_secs(20)).await;
    world.restart(false);
    until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    assert!(world.seen()[1].with_certificate, "not that it was refused: nobody was there");
}

#[tokio::test(start_paused = true)]
async fn a_wound_clock_is_no_storm_and_ends_when_it_is_wound_back() {
    // Forward it is due at once, back only when the steady clock says so, at half of the life.
    for (by, hours) in [(400 * 86_400, 2), (-86_400, 14)] {
        let offset = Arc::new(AtomicI64::new(0));
        let mut world = World::new(clock(), false);
        // The authority keeps the right time; only ours is wound.
        world.clock = wound(&offset);
        world.behave(|fake, csr| {
            let leaf = fake.leaf(&fake.ca.intermediate, csr, CATALOG, (-3600, 86_400));
            Ok(vec![leaf, fake.ca.intermediate.certificate_pem().to_owned(), fake.roots()])
        });
        let source = world.source();
        let mut updates = source.identity();
        let first = until(&mut updates, |_| true).await;
        offset.store(by, Ordering::Relaxed);
        sleep(hours_of(hours)).await;
        let attempts = world.seen().len();
        assert!((2..400).contains(&attempts), "{attempts}");
        assert_eq!(serial(&updates).as_deref(), Some(first.svid().serial()));
        let error = source.status().last_error().unwrap();
        assert!(error.contains("expired") || error.contains("not valid"), "{error}");
        offset.store(0, Ordering::Relaxed);
        until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_are_refused_and_the_identity_stays() {
    let day = DAY.as_secs() as i64;
    let with =
        |leaf: String, fake: &FakeCa| Ok(vec![leaf, fake.ca.intermediate.certificate_pem().to_owned(), fake.roots()]);
    let stranger = Ca::new("example.org");
    let (strangers_root, key) = (stranger.root.certificate_pem().to_owned(), rcgen::KeyPair::generate().unwrap());
    let world = World::new(clock(), false);
    let source = world.source();
    let first = until(&mut source.identity(), |_| true).await;
    type Lie = Box<dyn Fn(&FakeCa, &str) -> Result<Vec<String>, Status> + Send + Sync>;
    let lies: Vec<(&str, Lie)> = vec![
        (
            "the key made for it does not match",
            Box::new(move |fake, _| with(fake.leaf_of(&fake.ca.intermediate, &key, CATALOG, (-60, day)), fake)),
        ),
        (
            "spiffe://other.org",
            Box::new(move |fake, csr| {
                with(fake.leaf(&fake.ca.intermediate, csr, "spiffe://other.org/ns/shop/sa/catalog", (-60, day)), fake)
            }),
        ),
        ("expired", Box::new(move |fake, csr| with(fake.leaf(&fake.ca.intermediate, csr, CATALOG, (-day, -60)), fake))),
        (
            "not valid",
            Box::new(move |fake, csr| with(fake.leaf(&fake.ca.intermediate, csr, CATALOG, (3600, day)), fake)),
        ),
        (
            "not issued by a CA of the trust bundle",
            Box::new(move |fake, csr| {
                let mut chain = fake.chain(csr, DAY);
                *chain.last_mut().unwrap() = strangers_root.clone();
                Ok(chain)
            }),
        ),
        ("no PEM certificate", Box::new(|fake, _| Ok(vec!["nonsense".to_owned(), fake.roots()]))),
        (
            "malformed",
            Box::new(|fake, _| {
                let garbage = "-----BEGIN CERTIFICATE-----\nMIIBgarbage=\n-----END CERTIFICATE-----\n";
                Ok(vec![garbage.to_owned(), fake.roots()])
            }),
        ),
        (
            "the roots: no PEM certificate",
            Box::new(|fake, csr| {
                let mut chain = fake.chain(csr, DAY);
                chain.last_mut().unwrap().clear();
                Ok(chain)
            }),
        ),
        ("without roots", Box::new(|fake, csr| Ok(vec![fake.chain(csr, DAY).swap_remove(0)]))),
        ("without a certificate", Box::new(|_, _| Ok(Vec::new()))),
        ("message length too large", Box::new(|fake, _| Ok(vec!["x".repeat(2 << 20), fake.roots()]))),
        ("\\u{1b}[31mred", Box::new(|_, _| Err(Status::permission_denied("\x1b[31mred")))),
    ];
    for (expected, lie) in lies {
        let before = world.seen().len();
        world.behave(lie);
        // The failure of an answer that was on its way is not this one's.
        until_status(&source, |status| {
            world.seen().len() > before + 1 && status.last_error().is_some_and(|error| error.contains(expected))
        })
        .await;
        assert_eq!(serial(&source.identity()).as_deref(), Some(first.svid().serial()));
    }
    world.behave(well);
    until(&mut source.identity(), |identity| identity.svid().serial() != first.svid().serial()).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_authority_is_given_up_in_time() {
    let world = World::new(clock(), false);
    let (silent, _kept) = tokio::io::duplex(1024 * 1024);
    let silent = std::sync::Mutex::new(vec![silent]);
    let dial: Dial = Box::new(move |_| match silent.lock().unwrap().pop() {
        Some(stream) => Box::pin(async { Ok(Box::new(stream) as Box<dyn asker::Stream>) }),
        None => Box::pin(std::future::pending()),
    });
    let source = CaSource::assemble(&world.config(), &world.client, world.clock.clone(), dial);
    assert!(source.status().last_error().unwrap().starts_with("no answer yet"));
    until_status(&source, |status| status.failed() >= 2).await;
    assert!(source.status().last_error().unwrap().contains("did not answer within 10 s"));
}

#[tokio::test(start_paused = true)]
async fn a_told_bundle_is_used_at_once_and_a_renewal_follows() {
    let world = World::new(clock(), true);
    let one = world.fake.roots();
    world.tell(1, &one);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    let both = one.clone() + Ca::new("example.org").root.certificate_pem();
    let told = world.clock.now().wall;
    world.tell(2, &both);
    let second = until(&mut updates, |identity| identity.bundle().roots().len() == 2).await;
    assert_eq!(second.svid().serial(), first.svid().serial(), "the bundle alone, at once");
    assert_eq!(source.status().bundle_updates(), 1);
    let answer = both.clone();
    world.behave(move |fake, csr| {
        let mut chain = fake.chain(csr, DAY);
        *chain.last_mut().unwrap() = answer.clone();
        Ok(chain)
    });
    until(&mut updates, |identity| {
        identity.svid().serial() != first.svid().serial() && identity.bundle().roots().len() == 2
    })
    .await;
    assert!(world.seen()[1].at.duration_since(told).unwrap() < Duration::from_secs(10));

    // The authority decides: a root that it drops is dropped. What is no bundle never is.
    let dropped = world.seen().len();
    for (trust_domain, roots, expected) in [
        ("example.org", "", "no PEM certificate"),
        ("other.org", one.as_str(), "the trust domain other.org, not of ours"),
        ("example.org", "-----BEGIN CERTIFICATE-----", "not valid PEM"),
    ] {
        world.tell_as(trust_domain, 3, roots);
        until_status(&source, |status| status.last_error().is_some_and(|error| error.contains(expected))).await;
        assert_eq!(updates.borrow().as_ref().unwrap().bundle().roots().len(), 2);
    }
    world.behave(well);
    world.tell(4, &one);
    until(&mut updates, |identity| identity.bundle().roots().len() == 1).await;
    until_status(&source, |status| status.last_error().is_none()).await;
    until_status(&source, |_| world.seen().len() > dropped).await;
}

#[tokio::test(start_paused = true)]
async fn the_watch_outlives_a_restart_of_the_authority() {
    let mut world = World::new(clock(), true);
    let one = world.fake.roots();
    world.tell(1, &one);
    let source = world.source();
    let mut updates = source.identity();
    until(&mut updates, |_| true).await;
    world.stop().await;
    world.tell(2, &(one + Ca::new("example.org").root.certificate_pem()));
    world.restart(true);
    until(&mut updates, |identity| identity.bundle().roots().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_are_measured_and_bridged() {
    let world = World::new(clock(), true);
    world.tell_at("example.org", 1, &world.fake.roots(), world.clock.now().wall + Duration::from_secs(60));
    let source = world.source();
    until(&mut source.identity(), |_| true).await;
    until_status(&source, |status| (58_000..=62_000).contains(&status.clock_skew_ms())).await;

    // Without a watch, a certificate of the future tells; an authority half a minute ahead is no reason to wait.
    let world = World::new(clock(), false);
    world.behave(|fake, csr| {
        let leaf = fake.leaf(&fake.ca.intermediate, csr, CATALOG, (30, 86_400));
        Ok(vec![leaf, fake.ca.intermediate.certificate_pem().to_owned(), fake.roots()])
    });
    let source = world.source();
    until(&mut source.identity(), |_| true).await;
    let skew = source.status().clock_skew_ms();
    assert!((28_000..=30_000).contains(&skew), "{skew}");
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_is_held_until_it_begins() {
    let world = World::new(clock(), false);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    let ahead = |begins, fake: &FakeCa, csr: &str| {
        let leaf = fake.leaf(&fake.ca.intermediate, csr, CATALOG, (begins, 86_400));
        let mut chain = fake.chain(csr, DAY);
        chain[0] = leaf;
        *chain.last_mut().unwrap() += Ca::new("example.org").root.certificate_pem();
        Ok(chain)
    };
    world.behave(move |fake, csr| ahead(120, fake, csr));
    // Its bundle is good at once.
    let still = until(&mut updates, |identity| identity.bundle().roots().len() == 2).await;
    assert_eq!(still.svid().serial(), first.svid().serial());
    let second = until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    let now = world.clock.now().wall;
    assert!(second.svid().check_time(now).is_ok(), "not before it begins");
    assert!(now.duration_since(second.svid().not_before()).unwrap() < Duration::from_secs(5), "and no later");
    assert_eq!(world.seen().len(), 2);

    // Where the current one ends first, it is all there is.
    let short = |fake: &FakeCa, csr: &str| Ok(fake.chain(csr, Duration::from_secs(60)));
    world.behave(short);
    let third = until(&mut updates, |identity| identity.svid().serial() != second.svid().serial()).await;
    world.behave(move |fake, csr| ahead(120, fake, csr));
    let fourth = until(&mut updates, |identity| identity.svid().serial() != third.svid().serial()).await;
    let now = world.clock.now().wall;
    assert!(now > third.svid().not_after() && now < fourth.svid().not_before(), "{fourth:?}");
}

#[tokio::test(start_paused = true)]
async fn a_used_join_token_gives_way_to_the_certificate() {
    let world = World::new(clock(), false);
    let source = world.source();
    let mut updates = source.identity();
    let mut last = until(&mut updates, |_| true).await;
    // From now on the token is refused, and a certificate will do.
    world.behave(|fake, csr| {
        let seen = fake.seen.lock().unwrap().last().unwrap().clone();
        if seen.token.is_none() && seen.with_certificate {
            well(fake, csr)
        } else {
            Err(Status::unauthenticated("used"))
        }
    });
    for _ in 0..2 {
        last = until(&mut updates, |identity| identity.svid().serial() != last.svid().serial()).await;
    }
    let shown: Vec<_> = world.seen().iter().map(|seen| (seen.token.is_some(), seen.with_certificate)).collect();
    assert_eq!(shown, [(true, false), (true, true), (false, true), (false, true)], "and it is remembered");
    assert_eq!(source.status().failed(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_certificate_is_shown_even_after_it_did_not_help() {
    let world = World::new(clock(), false);
    let source = world.source();
    let mut updates = source.identity();
    let first = until(&mut updates, |_| true).await;
    let token = world.client.token.clone();
    world.behave(move |_, _| {
        let _ = std::fs::remove_file(&token);
        Err(Status::unavailable("not today"))
    });
    until_status(&source, |status| status.failed() >= 4).await;
    world.behave(well);
    until(&mut updates, |identity| identity.svid().serial() != first.svid().serial()).await;
    let seen = world.seen();
    assert!(seen[2..].iter().all(|seen| seen.with_certificate && seen.token.is_none()), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn an_untrusted_authority_gets_no_token() {
    let world = World::new(clock(), false);
    std::fs::write(&world.client.roots, Ca::new("example.org").root.certificate_pem()).unwrap();
    let source = world.source();
    until_status(&source, |status| status.failed() >= 1).await;
    let error = source.status().last_error().unwrap();
    assert!(error.contains("TLS failed: invalid peer certificate"), "{error}");
    assert!(world.seen().is_empty());
    // The roots are read anew.
    std::fs::write(&world.client.roots, world.fake.roots()).unwrap();
    until(&mut source.identity(), |_| true).await;

    let mut misnamed = World::new(clock(), false);
    misnamed.client.server_name = "elsewhere.example".into();
    let source = misnamed.source();
    until_status(&source, |status| status.failed() >= 1).await;
    assert!(source.status().last_error().unwrap().contains("elsewhere.example"));
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_to_ask_at_all_is_said() {
    for (token, content, expected) in [
        (true, None, "cannot read the token for the certificate authority"),
        (true, Some(String::new()), "empty, too long or not a token"),
        (true, Some("two words".to_owned()), "empty, too long or not a token"),
        (true, Some("x".repeat(20_000)), "empty, too long or not a token"),
        (false, None, "cannot read the roots that vouch for the certificate authority"),
    ] {
        let world = World::new(clock(), false);
        let path = if token { &world.client.token } else { &world.client.roots };
        let kept = std::fs::read(path).unwrap();
        match content {
            Some(content) => std::fs::write(path, content).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let source = world.source();
        until_status(&source, |status| status.failed() >= 1).await;
        assert!(source.status().last_error().unwrap().contains(expected), "{:?}", source.status().last_error());
        std::fs::write(path, kept).unwrap();
        until(&mut source.identity(), |_| true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_key_or_token_is_ever_printed() {
    let world = World::new(clock(), false);
    let source = world.source();
    let identity = until(&mut source.identity(), |_| true).await;
    let printed = format!("{identity:?} {source:?} {:?}", source.status());
    assert!(!printed.contains("PRIVATE") && !printed.contains("the.first.token"), "{printed}");
    let (key, _) = asker::new_request(KeyKind::P256).await.unwrap();
    // rustls prints an opaque key, whatever holds it.
    let body: String = key.secret_der()[40..60].iter().map(|byte| format!("{byte}, ")).collect();
    assert!(!format!("{key:?}").contains(&body), "{key:?}");
    let metadata = world.seen();
    assert_eq!(metadata.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_tells_no_bundles_is_no_trouble() {
    let world = World::new(clock(), false);
    let source = world.source();
    until(&mut source.identity(), |_| true).await;
    sleep(hours(3)).await;
    let status = source.status();
    assert_eq!((status.failed(), status.last_error(), status.clock_skew_ms()), (0, None, 0));
}
