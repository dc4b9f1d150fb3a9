//! Tests of the limits of connections.

use super::*;

const NOW: u64 = 1_800_000_000_000;
/// The requests per second of an address.
const RATE: u32 = 250;

/// Two workers and the value that they share.
struct Two {
    workers: [Connections; 2],
    alive: Vec<u8>,
    table: Vec<u8>,
}

impl Two {
    fn new() -> Self {
        let mut two = Self { workers: Default::default(), alive: Vec::new(), table: Vec::new() };
        [0, 1].into_iter().for_each(|worker| two.show(worker, NOW));
        two.show(0, NOW);
        two
    }

    fn show(&mut self, worker: usize, now: u64) {
        let mut alive = Alive::read(&self.alive).unwrap();
        let worker = &mut self.workers[worker];
        worker.vm = Some(alive.show(worker.vm, now));
        self.alive = alive.to_bytes();
        worker.alive = alive;
    }

    fn opens(&mut self, worker: usize, counted: Counted, limit: u32, now: u64) -> bool {
        let worker = &mut self.workers[worker];
        match worker.with_one_more(counted, limit, Table::read(&self.table).unwrap(), now) {
            Admission::Full => false,
            Admission::Room(table) => {
                self.table = table.to_bytes();
                worker.opened(counted);
                true
            }
        }
    }

    fn closes(&mut self, worker: usize, counted: Counted) {
        let worker = &mut self.workers[worker];
        worker.closed(counted);
        self.table = worker.published(counted, Table::read(&self.table).unwrap()).to_bytes();
    }
}

fn of(address: &str) -> Counted {
    Counted::of(address.parse().unwrap(), false)
}

#[test]
fn the_last_place_is_given_once_whichever_worker_is_asked() {
    let mut two = Two::new();
    let (one, other) = (of("10.0.0.1"), of("10.0.0.2"));
    for number in 0..16 {
        assert!(two.opens(number % 2, one, 16, NOW), "{number}");
    }
    for worker in [0, 1] {
        assert!(!two.opens(worker, one, 16, NOW));
    }
    assert!(two.opens(0, other, 16, NOW), "another address");
    two.closes(0, one);
    assert!(two.opens(1, one, 16, NOW) && !two.opens(0, one, 16, NOW));
    for _ in 0..7 {
        two.closes(0, one);
    }
    for _ in 0..9 {
        two.closes(1, one);
    }
    two.closes(0, other);
    assert!(two.table.is_empty(), "nothing is kept of an address without connections");
}

#[test]
fn a_vm_that_is_gone_leaves_no_count() {
    let mut two = Two::new();
    let one = of("10.0.0.1");
    (0..16).for_each(|_| assert!(two.opens(0, one, 16, NOW)));
    // The filter of worker 0 crashes; its new VM has no memory, and gets another number.
    two.workers[0] = Connections::default();
    two.show(0, NOW);
    assert!(!two.opens(0, one, 16, NOW + 4_999) && !two.opens(1, one, 16, NOW + 4_999));
    for now in [NOW + 5_000, NOW + 30_000] {
        [0, 1].into_iter().for_each(|worker| two.show(worker, now));
        assert!(two.opens(1, one, 16, now), "its connections don't count any more");
    }
    let before = two.table.len();
    [1, 0, 1].into_iter().for_each(|worker| two.show(worker, NOW + 60_000));
    assert!(two.opens(1, one, 16, NOW + 60_000));
    assert!(two.table.len() < before, "its entry is gone");
}

#[test]
fn a_vm_that_stood_still_counts_again() {
    let mut two = Two::new();
    let one = of("10.0.0.1");
    (0..16).for_each(|_| assert!(two.opens(0, one, 16, NOW)));
    two.show(1, NOW + 10_000);
    assert!(two.opens(1, one, 16, NOW + 10_000));
    [0, 1].into_iter().for_each(|worker| two.show(worker, NOW + 20_000));
    assert!(!two.opens(1, one, 16, NOW + 20_000) && !two.opens(0, one, 16, NOW + 20_000));
}

#[test]
fn a_stranger_has_its_ipv6_network_and_a_container_its_address() {
    let [one, two, far]: [IpAddr; 3] =
        ["fd00::1", "fd00::2:3", "fd00:0:0:1::1"].map(|address| address.parse().unwrap());
    assert_eq!(Counted::of(one, false), Counted::of(two, false));
    assert_ne!(Counted::of(one, false), Counted::of(far, false));
    assert_ne!(Counted::of(one, true), Counted::of(two, true));
    assert_ne!(Counted::of(one, true), Counted::of(one, false));
    let v4: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(Counted::of(v4, true), Counted::of(v4, false));
    assert_ne!(Counted::of(v4, false), Counted::of("10.0.0.2".parse().unwrap(), false));
}

fn pass(connections: &mut Connections, seconds: u64) {
    let now = connections.ticked.unwrap_or(NOW);
    (0..=seconds * 2).for_each(|half| connections.tick(now + half * 500));
}

#[test]
fn the_time_of_ticks_is_the_clock_s() {
    let mut connections = Connections::default();
    // The second root context ticks in between, then the clock is set forward, and back.
    [0, 400, 1_000, 1_400].into_iter().for_each(|passed| connections.tick(NOW + passed));
    assert_eq!(connections.uptime, Duration::from_millis(1_400));
    connections.tick(NOW + 1_000_000);
    assert_eq!(connections.uptime, Duration::from_millis(2_400));
    [0, 1_000].into_iter().for_each(|passed| connections.tick(NOW + passed));
    assert_eq!(connections.uptime, Duration::from_millis(3_400));
}

#[test]
fn a_connection_without_a_request_ends_after_ten_seconds() {
    let mut connections = Connections::default();
    (1..=5).for_each(|id| connections.accepted(id, u64::from(id) + 100));
    connections.spoke(102);
    pass(&mut connections, 10);
    assert!(connections.take_silent(64).is_empty(), "the first second may be almost over");
    pass(&mut connections, 1);
    assert_eq!(connections.take_silent(3), [1, 3, 4], "no more than so many at once");
    assert_eq!(connections.take_silent(3), [5]);
    assert!(connections.silent.is_empty() && connections.young.is_empty());
}

/// The connections of a worker with [`RATE`].
fn limited() -> Connections {
    let mut connections = Connections::default();
    connections.set_rate(RATE);
    connections
}

fn request(connections: &mut Connections, of: Counted, times: usize) -> Option<u32> {
    (0..times).map(|_| connections.requested(of)).last().unwrap()
}

#[test]
fn an_address_with_too_many_requests_waits_until_time_has_given_them_back() {
    let mut connections = limited();
    let (one, other) = (of("10.0.0.1"), of("10.0.0.2"));
    request(&mut connections, one, 4_000);
    assert_eq!(connections.arrived(1, one, 9), Arrived::Passes, "the burst passes");
    assert_eq!(request(&mut connections, one, 1_000), None, "so do those that were on their way");
    for id in [1, 2, 1] {
        assert_eq!(connections.arrived(id, one, 9), Arrived::Waits, "{id}");
    }
    assert_eq!(connections.arrived(3, other, 9), Arrived::Passes, "another address");
    pass(&mut connections, 3);
    assert!(connections.take_ready(64).is_empty());
    pass(&mut connections, 1);
    assert_eq!(connections.arrived(4, one, 9), Arrived::Passes, "a connection that did not wait");
    assert_eq!(connections.arrived(2, one, 9), Arrived::Waits, "a connection waits for its turn");
    assert_eq!(connections.take_ready(0), [0; 0]);
    assert_eq!(connections.take_ready(64), [1]);
    // Its bytes had many requests.
    request(&mut connections, one, 500);
    assert!(connections.take_ready(64).is_empty() && connections.any_waits());
    pass(&mut connections, 2);
    assert_eq!(connections.take_ready(64), [2]);
    assert!(!connections.any_waits() && connections.arrived(1, one, 9) == Arrived::Passes);
}

#[test]
fn an_address_within_its_burst_has_as_many_connections_go_on_as_requests_are_left() {
    let mut connections = limited();
    let one = of("10.0.0.1");
    request(&mut connections, one, 4_001);
    (0..60).for_each(|id| assert_eq!(connections.arrived(id, one, 9), Arrived::Waits));
    connections.tick(NOW);
    connections.tick(NOW + 100);
    assert_eq!(connections.take_ready(64).len(), 24);
    connections.tick(NOW + 200);
    assert_eq!(connections.take_ready(10).len(), 10);
    assert_eq!(connections.take_ready(64).len(), 26);
    assert!(!connections.any_waits() && connections.bytes.is_empty());
}

#[test]
fn an_address_waits_for_eight_seconds_at_most_and_leaves_nothing() {
    let mut connections = limited();
    let one = of("10.0.0.1");
    request(&mut connections, one, 1_000_000);
    for id in [1, 2] {
        assert_eq!(connections.arrived(id, one, 9), Arrived::Waits);
    }
    connections.waits_no_longer(1, one);
    pass(&mut connections, 7);
    assert!(connections.take_ready(64).is_empty());
    pass(&mut connections, 1);
    assert_eq!(connections.take_ready(64), [2]);
    pass(&mut connections, 16);
    assert!(connections.requests.is_empty() && connections.waiting.is_empty() && connections.bytes.is_empty());
}

#[test]
fn requests_far_beyond_the_burst_are_refused_and_without_a_rate_nothing_is() {
    let mut connections = limited();
    let one = of("10.0.0.1");
    assert_eq!(request(&mut connections, one, 5_000), None);
    assert_eq!(request(&mut connections, one, 1), Some(RATE));
    assert_eq!(request(&mut connections, of("10.0.0.2"), 1), None, "another address");
    let mut free = Connections::default();
    assert_eq!(request(&mut free, one, 100_000), None);
    assert_eq!(free.arrived(1, one, 9), Arrived::Passes);
}

#[test]
fn the_bytes_of_an_address_that_wait_are_limited() {
    let mut connections = limited();
    let one = of("10.0.0.1");
    request(&mut connections, one, 4_500);
    for id in 0..16 {
        assert_eq!(connections.arrived(id, one, 1 << 20), Arrived::Waits);
        assert_eq!(connections.arrived(id, one, 2 << 20), Arrived::Waits, "with those before them");
    }
    assert_eq!(connections.arrived(16, one, 1), Arrived::TooMuch);
    connections.waits_no_longer(16, one);
    connections.waits_no_longer(0, one);
    assert_eq!(connections.arrived(17, one, 1), Arrived::Waits);
}

#[test]
fn a_connection_whose_first_request_waits_is_not_silent() {
    let mut connections = limited();
    let one = of("10.0.0.1");
    (1..=2).for_each(|id| connections.accepted(id, u64::from(id)));
    connections.spoke(2);
    for _ in 0..12 {
        request(&mut connections, one, 20_000);
        for id in [1, 2] {
            assert_eq!(connections.arrived(id, one, 9), Arrived::Waits);
        }
        pass(&mut connections, 1);
        assert!(connections.take_silent(64).is_empty());
    }
    pass(&mut connections, 8);
    assert_eq!(connections.take_ready(1), [1]);
    pass(&mut connections, 11);
    assert_eq!(connections.take_silent(64), [1], "it has sent no request after all");
}

#[test]
fn a_refused_address_has_a_line_a_minute_and_there_are_not_too_many() {
    let mut connections = Connections::default();
    assert!(connections.notes(of("10.0.0.1"), Line::Refused));
    assert!(connections.notes(of("10.0.0.1"), Line::Waits), "a line of another kind");
    pass(&mut connections, 59);
    assert!(!connections.notes(of("10.0.0.1"), Line::Refused));
    pass(&mut connections, 1);
    assert!(connections.notes(of("10.0.0.1"), Line::Refused));
    for number in 0..u32::try_from(MAX_NOTED).unwrap() - 1 {
        assert!(connections.notes(Counted::of(IpAddr::from(number.to_be_bytes()), false), Line::Refused));
    }
    assert!(!connections.notes(of("fd00::1"), Line::Refused));
    pass(&mut connections, 60);
    assert!(connections.notes(of("fd00::1"), Line::Refused));
}

#[test]
fn shared_values_of_another_form_are_errors() {
    let table = Table(vec![(of("10.0.0.1"), 7, 16), (Counted::STRANGERS, 8, 1)]);
    assert_eq!(Table::read(&table.to_bytes()), Ok(table.clone()));
    assert_eq!(Table::read(&table.to_bytes()[1..]), Err(Unreadable));
    let mut alive = Alive::default();
    alive.show(None, NOW);
    assert_eq!(Alive::read(&alive.to_bytes()), Ok(alive.clone()));
    assert_eq!(Alive::read(&alive.to_bytes()[8..16]), Ok(Alive { next: 1, seen: HashMap::new() }));
    for cut in [1, 16] {
        assert_eq!(Alive::read(&alive.to_bytes()[..cut]), Err(Unreadable));
    }
}

#[test]
fn as_long_as_the_registry_is_not_known_everybody_counts_as_a_container() {
    let limits = ConnectionLimits { container: 512, stranger: 16, strangers: 1_000, requests_per_second: RATE };
    assert_eq!([None, Some(true), Some(false)].map(|known| limit(&limits, known)), [512, 512, 16]);
}
