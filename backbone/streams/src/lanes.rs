//! Which lane a busy worker looks into first: rt before batch before replay, yet each with a minimum share.

use events::Lane;

/// Out of 16 turns the lower lanes are looked into first this often, so that a flood above never starves them.
const BATCH_FIRST: [u32; 3] = [4, 9, 14];
const REPLAY_FIRST: u32 = 7;
const CYCLE: u32 = 16;

/// Gives the order of lanes for each turn.
#[derive(Debug, Default)]
pub struct Turns {
    turn: u32,
}

impl Turns {
    /// Returns the lanes in the order to look into them now.
    pub fn next_order(&mut self) -> [Lane; 3] {
        let turn = self.turn;
        self.turn = (self.turn + 1) % CYCLE;
        match turn {
            REPLAY_FIRST => [Lane::Replay, Lane::Rt, Lane::Batch],
            turn if BATCH_FIRST.contains(&turn) => [Lane::Batch, Lane::Rt, Lane::Replay],
            _ => [Lane::Rt, Lane::Batch, Lane::Replay],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_gets_its_share_when_all_are_full() {
        let mut turns = Turns::default();
        let first: Vec<Lane> = (0..CYCLE).map(|_| turns.next_order()[0]).collect();
        let count = |lane| first.iter().filter(|&&l| l == lane).count();
        assert_eq!((count(Lane::Rt), count(Lane::Batch), count(Lane::Replay)), (12, 3, 1));
    }

    #[test]
    fn each_order_holds_every_lane_once() {
        let mut turns = Turns::default();
        for _ in 0..CYCLE {
            let mut order = turns.next_order();
            order.sort();
            assert_eq!(order, [Lane::Rt, Lane::Batch, Lane::Replay]);
        }
    }
}
