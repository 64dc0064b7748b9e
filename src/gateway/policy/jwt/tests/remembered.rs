//! Tokens that were checked before.

use super::*;

#[test]
fn what_is_remembered_still_ends_and_goes_with_its_keys() {
    let jwt = Arc::new(hs256());
    let tokens = Tokens::new(&jwt, None);
    let token = with(json!({ "sub": "anna" }));
    let ask = |now| tokens.check(token.as_bytes(), Duration::from_secs(now));
    let first = ask(NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &ask(NOW + 59).unwrap()), "remembered");
    assert_eq!(why(ask(NOW + 60)), "the token has expired");
    assert!(tokens.check(&token.as_bytes()[..token.len() - 1], Duration::from_secs(NOW)).is_err());

    let hash = sha256(token.as_bytes());
    let (one, other) = (Arc::new(KeySet::default()), Arc::new(KeySet::default()));
    let remembered = Remembered::default();
    assert!(remembered.find(&hash, &one).is_none());
    remembered.add(hash, &first, &other);
    assert!(remembered.find(&hash, &one).is_none(), "verified with keys that are not the ones of now");
    remembered.add(hash, &first, &one);
    assert!(remembered.find(&hash, &one).is_some());
    assert!(remembered.find(&hash, &other).is_none(), "other keys");
    assert!(remembered.find(&hash, &one).is_none(), "and all is forgotten");
}

#[test]
fn no_more_is_remembered_than_is_named_and_what_is_used_stays() {
    let verified = check(&hs256(), &with(json!({}))).unwrap();
    let (remembered, keys) = (Remembered::default(), Arc::new(KeySet::default()));
    let hash = |number: u32| sha256(&number.to_be_bytes());
    assert!(remembered.find(&hash(0), &keys).is_none());
    for number in 0..100_000 {
        let _ = remembered.find(&hash(number), &keys);
        remembered.add(hash(number), &verified, &keys);
        assert!(remembered.find(&hash(0), &keys).is_some(), "after {number}");
    }
    let sizes = remembered.0.iter().map(|part| part.lock().unwrap()).map(|part| part.young.len() + part.old.len());
    assert!(sizes.sum::<usize>() <= 2 * SHARDS * REMEMBERED_MAX);
}
