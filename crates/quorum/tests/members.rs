//! Who is there, and who comes and goes.

use keymoot_quorum::members::{ECHO_LAG_MAX, FLAPS_MAX, HOLD_DOWN, Members, Presence};
use keymoot_types::{
    Digest, NodeName, NodeState,
    heartbeat::{BootId, Echo, Heartbeat},
};

/// This node and one other, beat by beat.
struct Two {
    here: Members,
    there: NodeName,
    beat: u64,
}

impl Two {
    fn new() -> Self {
        let here = Members::new("db1".parse().unwrap(), BootId("one".into()));
        Self { here, there: "db2".parse().unwrap(), beat: 0 }
    }

    /// Beats of both, heard or not.
    fn beats(&mut self, count: u64, heard: bool) {
        for _ in 0..count {
            let (beat, _) = self.here.next_beat();
            self.beat += 1;
            if heard {
                let echoes = vec![Echo { boot: self.here.boot().clone(), beat }];
                self.here.observe(heartbeat(&self.there, self.beat, echoes));
            }
        }
    }

    /// Beats while the store does not answer this node.
    fn outage(&mut self, count: u64) {
        for _ in 0..count {
            self.here.next_beat();
            self.here.interrupted();
        }
    }

    fn is_present(&self) -> bool {
        matches!(self.here.presence(&self.there), Presence::Present(_))
    }
}

fn heartbeat(node: &NodeName, beat: u64, echoes: Vec<Echo>) -> Heartbeat {
    Heartbeat {
        peer: None,
        window: None,
        node: node.clone(),
        boot: BootId("two".into()),
        beat,
        echoes,
        state: NodeState::Unlocked,
        revision: 1,
        digest: Digest::new([0; 32]),
        diverged: None,
        restored: false,
        validated: vec![],
        config: vec![],
    }
}

#[test]
fn a_member_that_comes_and_goes_is_held_down_until_it_has_stayed() {
    let mut two = Two::new();
    two.beats(3 * ECHO_LAG_MAX, true);
    for flap in 1..=FLAPS_MAX {
        assert!(two.is_present(), "before flap {flap}");
        two.beats(2 * ECHO_LAG_MAX, false);
        assert!(matches!(two.here.presence(&two.there), Presence::Lost(_)));
        two.beats(1, true);
    }
    let Presence::Flapping { returns, beats_left } = two.here.presence(&two.there) else {
        panic!("it is believed")
    };
    assert_eq!((returns, beats_left), (FLAPS_MAX, HOLD_DOWN));
    two.beats(HOLD_DOWN - 1, true);
    assert!(!two.is_present());
    two.beats(1, true);
    assert!(two.is_present());
}

#[test]
fn outages_of_a_nodes_own_store_hold_down_nobody() {
    let mut two = Two::new();
    two.beats(3 * ECHO_LAG_MAX, true);
    for _ in 0..3 * FLAPS_MAX {
        two.outage(2 * ECHO_LAG_MAX);
        assert!(!two.is_present(), "what was heard before the outage proves nothing");
        two.beats(1, true);
        assert!(two.is_present(), "{:?}", two.here.presence(&two.there));
        two.beats(ECHO_LAG_MAX, true);
    }
}

#[test]
fn a_member_that_stays_away_behind_an_outage_is_counted_as_gone_once() {
    let mut two = Two::new();
    two.beats(3 * ECHO_LAG_MAX, true);
    two.outage(2 * ECHO_LAG_MAX);
    two.beats(3 * ECHO_LAG_MAX, false);
    assert!(matches!(two.here.presence(&two.there), Presence::Lost(_)));
    two.beats(1, true);
    assert!(two.is_present(), "one coming back is none too many");
}
