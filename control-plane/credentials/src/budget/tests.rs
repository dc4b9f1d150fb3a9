use super::*;
use std::net::Ipv4Addr;

const NOW: u64 = 1_800_000_000;
const RESET: u64 = NOW + 1_800;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn token() -> Account {
    Account::Token(7)
}

fn call(account: &Account, container: u32, own: bool) -> Call<'_> {
    Call { container: address(container), id: "box", account, resource: Resource::Core, own }
}

fn reading(remaining: u64) -> Quoted {
    let reading = Reading { resource: Resource::Core, limit: 5_000, remaining, reset: RESET };
    Quoted { reading: Some(reading), ..Quoted::default() }
}

/// How many calls of `container` are admitted until one is refused.
fn flood(budget: &mut Budget, container: u32, now: u64) -> u64 {
    let account = token();
    (0..1_000_000).take_while(|_| budget.admit(call(&account, container, false), now).is_ok()).count() as u64
}

/// A generator of numbers: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn calls_of_an_hour_are_counted_for_each_container() {
    let (mut budget, account) = (Budget::new(3), token());
    for second in 0..3 {
        budget.admit(call(&account, 1, true), NOW + second).unwrap();
    }
    let refused = budget.admit(call(&account, 1, true), NOW + 3).unwrap_err();
    assert_eq!(refused, Limited { limit: Limit::Hour { calls: 3 }, until: NOW + 3_600, wait: 3_597 });
    assert!(refused.reason().contains("3 calls") && refused.reason().contains("2027-01-15T09:00:00Z"));
    budget.admit(call(&account, 2, true), NOW + 3).unwrap();
    budget.admit(call(&account, 1, false), NOW + 3).unwrap();
    assert!(budget.admit(call(&account, 1, true), NOW + 3_599).is_err());
    budget.admit(call(&account, 1, true), NOW + 3_600).unwrap();
}

#[test]
fn an_unknown_quota_has_no_shares() {
    let mut budget = Budget::new(HOURLY);
    assert_eq!(flood(&mut budget, 1, NOW), 1_000_000, "no answer has told the quota");
    let mut quoted = reading(0);
    for reset in [0, NOW, NOW + MAX_WINDOW + 1] {
        quoted.reading.as_mut().unwrap().reset = reset;
        assert_eq!(budget.heard(&token(), None, quoted, NOW), None);
        budget.admit(call(&token(), 1, false), NOW).unwrap();
    }
}

#[test]
fn shares_begin_below_a_fifth_and_end_with_the_window() {
    let mut budget = Budget::new(HOURLY);
    budget.heard(&token(), None, reading(1_000), NOW);
    assert!(!budget.standings(NOW)[0].shared, "a fifth is left");
    assert_eq!(flood(&mut budget, 1, NOW), 501, "half of less stays for a newcomer");
    let refused = budget.admit(call(&token(), 1, false), NOW).unwrap_err();
    let limit = Limit::Share { resource: Resource::Core, left: 499, limit: 5_000 };
    assert_eq!(refused, Limited { limit, until: RESET, wait: 1_800 });
    assert!(refused.reason().contains("499 of 5000 calls") && refused.reason().contains("(core)"));
    // A late answer brings nothing back, and another account or resource is not concerned.
    budget.heard(&token(), None, reading(4_000), NOW);
    assert!(budget.admit(call(&token(), 1, false), RESET - 1).is_err());
    budget.admit(call(&Account::Token(8), 1, false), NOW).unwrap();
    budget.admit(call(&Account::Installation("acme".into()), 1, false), NOW).unwrap();
    budget.admit(Call { resource: Resource::Search, ..call(&token(), 1, false) }, NOW).unwrap();
    // A statement about the old window says nothing of the new one.
    budget.admit(call(&token(), 1, false), RESET).unwrap();
    budget.heard(&token(), None, reading(0), RESET);
    budget.admit(call(&token(), 1, false), RESET).unwrap();
    let mut next = reading(5);
    next.reading.as_mut().unwrap().reset = RESET + 3_600;
    budget.heard(&token(), None, next, RESET);
    assert_eq!(flood(&mut budget, 1, RESET), 3);
}

#[test]
fn a_window_that_still_runs_gives_way_to_no_other() {
    let (mut budget, account) = (Budget::new(HOURLY), token());
    let other = |limit: u64, remaining: u64, reset: u64| {
        let reading = Some(Reading { resource: Resource::Core, limit, remaining, reset });
        Quoted { reading, ..Quoted::default() }
    };
    budget.heard(&account, None, reading(900), NOW);
    assert_eq!(flood(&mut budget, 1, NOW), 450);
    // Another account's statements: a new share for the flooder, or nothing left for anyone.
    let end = RESET - SKEW;
    for (limit, remaining, reset) in
        [(5_000, 5_000, RESET + 600), (60, 0, RESET + 600), (60, 59, RESET + SKEW + 1), (60, 0, RESET - SKEW - 1)]
    {
        for now in [NOW, RESET - 600, end - 1] {
            budget.heard(&account, None, other(limit, remaining, reset), now);
            assert_eq!(budget.standings(now)[0].reading, reading(900).reading, "{remaining} of {limit} at {reset}");
            assert!(budget.admit(call(&account, 1, false), now).is_err(), "{remaining} of {limit} at {reset}");
        }
    }
    budget.admit(call(&account, 2, false), end - 1).unwrap();
    // The gateway's clock may be slow.
    budget.heard(&account, None, other(5_000, 4_999, RESET + 3_600), end);
    budget.admit(call(&account, 1, false), end).unwrap();
    budget.heard(&account, None, reading(0), end);
    budget.admit(call(&account, 1, false), end).unwrap();
}

#[test]
fn a_flooder_leaves_each_neighbour_its_share() {
    for neighbours in 1..8_u32 {
        for first in [0, 1_000] {
            let mut budget = Budget::new(HOURLY);
            let account = token();
            for container in 1..=neighbours {
                budget.admit(call(&account, container, false), NOW).unwrap();
            }
            // The flooder has used up most of the window, or comes new.
            for _ in 0..first {
                budget.admit(call(&account, 0, false), NOW).unwrap();
            }
            budget.heard(&account, None, reading(900), NOW);
            let all = u64::from(neighbours) + 2;
            let flooded = flood(&mut budget, 0, NOW);
            assert!(flooded <= 900 / all + 1, "{flooded} with {neighbours} neighbours");
            for container in 1..=neighbours {
                let own = flood(&mut budget, container, NOW);
                assert!(own >= 900 / all, "{own} of {}", 900 / all);
            }
            assert!(flood(&mut budget, 100, NOW) > 0, "a newcomer");
        }
    }
}

/// The number of calls up to which every container could go with what is left: the level of water that is poured
/// over the calls that were made. The newcomer has made none.
fn level(left: u64, made: &[u64]) -> f64 {
    let mut made: Vec<f64> = made.iter().map(|calls| *calls as f64).chain([0.0]).collect();
    made.sort_by(f64::total_cmp);
    let (mut left, mut level) = (left as f64, 0.0);
    for at in 0..made.len() {
        let width = (at + 1) as f64;
        let next = made.get(at + 1).copied().unwrap_or(f64::INFINITY);
        if left <= (next - level) * width {
            return level + left / width;
        }
        left -= (next - level) * width;
        level = next;
    }
    level
}

#[test]
fn no_container_is_refused_below_its_share_and_none_goes_beyond() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..300 {
        let containers = 1 + random.below(6) as usize;
        let (mut budget, account) = (Budget::new(u32::MAX), token());
        // GitHub's own count; others than the gateway use the account as well.
        let mut remaining = random.below(1_000);
        let size = remaining;
        budget.heard(&account, None, reading(remaining), NOW);
        let (mut told, mut unheard) = (remaining, 0);
        let (mut made, mut active) = (vec![0_u64; containers], vec![false; containers]);
        let flooder = random.below(containers as u64) as usize;
        for _ in 0..3_000 {
            let who = if random.below(3) > 0 { flooder } else { random.below(containers as u64) as usize };
            let left = (size - made.iter().sum::<u64>()).min(told.saturating_sub(unheard));
            let counted: Vec<u64> =
                (0..containers).filter(|other| active[*other] || *other == who).map(|other| made[other]).collect();
            let share = level(left, &counted);
            let admitted = budget.admit(call(&account, who as u32, false), NOW).is_ok();
            let own = made[who] as f64;
            assert_eq!(admitted, own + 1e-9 < share, "round {round}: {who} made {own}, its share is {share}");
            if admitted {
                made[who] += 1;
                unheard += 1;
                active[who] = true;
                remaining = remaining.saturating_sub(1);
            }
            if random.below(40) == 0 {
                remaining = remaining.saturating_sub(random.below(20));
            }
            // Answers come late and in any order.
            if random.below(4) == 0 {
                let late = remaining + random.below(5);
                if late <= told {
                    (told, unheard) = (late, 0);
                }
                budget.heard(&account, None, reading(late), NOW);
            }
            assert!(made.iter().sum::<u64>() <= size, "no more calls than are left");
        }
    }
}

#[test]
fn calls_that_are_broken_off_count_until_github_says_otherwise() {
    let (mut budget, account) = (Budget::new(HOURLY), token());
    budget.heard(&account, None, reading(5_000), NOW);
    // The next window counts as well before an answer tells it.
    for now in [NOW, RESET] {
        budget.admit(call(&account, 2, false), now).unwrap();
        let flooded = flood(&mut budget, 1, now);
        assert!((4_000..=4_340).contains(&flooded), "{flooded}");
        assert!(budget.admit(call(&account, 1, false), now).is_err());
        assert!(flood(&mut budget, 2, now) >= 333, "a neighbour's share");
    }
    // These calls have never come to GitHub.
    let mut late = reading(4_990);
    late.reading.as_mut().unwrap().reset = RESET + 3_600;
    budget.heard(&account, None, late, RESET);
    budget.admit(call(&account, 1, false), RESET).unwrap();
    assert!(!budget.standings(RESET)[0].shared);
}

#[test]
fn a_pause_holds_for_the_container_that_met_it() {
    let (mut budget, account) = (Budget::new(HOURLY), token());
    let quoted = Quoted { wait: Some(60), ..Quoted::default() };
    let met = budget.heard(&account, Some(address(1)), quoted, NOW).unwrap();
    assert_eq!(met, Limited { limit: Limit::Pause, until: NOW + 60, wait: 60 });
    assert_eq!(budget.admit(call(&account, 1, true), NOW + 59).unwrap_err().wait, 1);
    assert!(budget.admit(call(&account, 1, false), NOW + 59).is_err());
    budget.admit(call(&account, 2, false), NOW).unwrap();
    budget.admit(call(&account, 1, false), NOW + 60).unwrap();
}

#[test]
fn a_call_that_github_refuses_for_its_quota_is_told_as_such() {
    let mut budget = Budget::new(HOURLY);
    let quoted = Quoted { refused: true, ..reading(0) };
    let met = budget.heard(&token(), Some(address(1)), quoted, NOW).unwrap();
    assert_eq!(met.until, RESET);
    assert_eq!(budget.heard(&token(), Some(address(1)), reading(0), NOW), None, "the last good call");
    assert!(budget.admit(call(&token(), 2, false), NOW).is_err(), "nothing is left for any container");
}

#[test]
fn the_operator_sees_what_is_left_and_for_whom_most_calls_were_made() {
    let (mut budget, account) = (Budget::new(HOURLY), token());
    for (id, calls) in [("a", 2), ("b", 3)] {
        for _ in 0..calls {
            let container = address(calls);
            budget.admit(Call { id, container, ..call(&account, 0, true) }, NOW).unwrap();
        }
    }
    budget.heard(&account, None, reading(4_000), NOW);
    let standing = Standing {
        account: "token".into(),
        resource: Resource::Core,
        reading: reading(4_000).reading,
        shared: false,
        calls: 5,
        most: Some(("b".into(), 3)),
    };
    assert_eq!(budget.standings(NOW), std::slice::from_ref(&standing));
    assert_eq!(budget.standings(RESET), [Standing { reading: None, ..standing }]);
}

#[test]
fn the_budget_has_a_limited_size_and_forgets() {
    let (mut budget, account) = (Budget::new(1), token());
    let containers = u32::try_from(MAX_CONTAINERS).unwrap();
    for container in 0..containers {
        budget.admit(call(&account, container, true), NOW).unwrap();
    }
    budget.admit(call(&account, containers, true), NOW).unwrap();
    assert!(budget.admit(call(&account, containers + 1, true), NOW).is_err(), "all further ones are one");
    assert!(budget.hours.len() <= MAX_CONTAINERS + 1);
    assert!(budget.quotas.values().all(|quota| quota.used.len() <= MAX_CONTAINERS + 1));
    for number in 0..=MAX_QUOTAS as u64 {
        budget.admit(call(&Account::Token(number + 100), 1, false), NOW).unwrap();
    }
    assert_eq!(budget.quotas.len(), MAX_QUOTAS);
    let wait = Quoted { wait: Some(10), ..Quoted::default() };
    for container in 0..=containers {
        budget.heard(&account, Some(address(container)), wait, NOW);
    }
    assert_eq!(budget.pauses.len(), MAX_CONTAINERS);
    budget.admit(call(&account, 1, true), NOW + 2 * HOUR).unwrap();
    assert_eq!((budget.hours.len(), budget.pauses.len(), budget.quotas.len()), (1, 0, 1));
}

#[test]
fn a_pause_of_calls_without_a_credential_stops_no_call_with_one() {
    let mut budget = Budget::new(HOURLY);
    let wait = Quoted { wait: Some(600), ..Quoted::default() };
    budget.heard(&Account::Public, Some(address(1)), wait, NOW);
    assert!(budget.admit(call(&Account::Public, 1, false), NOW).is_err());
    budget.admit(call(&Account::Token(7), 1, false), NOW).unwrap();
    budget.admit(call(&Account::Token(7), 1, true), NOW).unwrap();
    budget.admit(call(&Account::Public, 2, false), NOW).unwrap();
}

#[test]
fn an_account_is_written_and_read() {
    let some = [Account::Token(0), Account::Token(u64::MAX), Account::Installation("acme".into()), Account::Public];
    for account in some {
        assert_eq!(Account::parse(&account.to_string()), Some(account));
    }
    for odd in ["", "token", "token x", "installation ", "user 7"] {
        assert_eq!(Account::parse(odd), None, "{odd:?}");
    }
}
