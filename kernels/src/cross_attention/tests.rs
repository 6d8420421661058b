use half::{bf16, f16};

use super::reference::{mix, scores};
use super::{Group, Workspace, alignment_scores, cross_attention};
use crate::cross_cache::reference::{e4m3_nearest, e4m3_value, key_place, value_place};
use crate::cross_cache::{Cache, HEAD_WIDTH, Kept};
use crate::testing::{Array, Emulator, Number, Random, close, each_order};
use crate::view::Half;

/// Slots whose lengths are known: what they hold, and the same as numbers. Whatever no kernel may read is no number.
struct Slots<T> {
    heads: usize,
    room: usize,
    lengths: Vec<usize>,
    /// Arrays of the cache, of the model's type and of bytes with their scales; one of the two is used.
    whole: [Array<T>; 2],
    bytes: Option<([Array<u8>; 2], Array<f32>)>,
    /// (slots, heads, positions, 64)
    keys: Vec<Vec<Vec<Vec<f64>>>>,
    values: Vec<Vec<Vec<Vec<f64>>>>,
}

impl<T: Half + Number> Slots<T> {
    fn new(in_bytes: bool, heads: usize, room: usize, lengths: &[usize]) -> Slots<T> {
        let mut random = Random::new((heads * room + lengths.len()) as u64);
        let count = lengths.len() * heads * room * HEAD_WIDTH;
        let mut whole = [(); 2].map(|()| vec![T::of(f32::NAN); if in_bytes { 0 } else { count }]);
        let mut bytes = [(); 2].map(|()| vec![0x7f; if in_bytes { count } else { 0 }]);
        let scales: Vec<f32> = (0..2 * lengths.len() * heads).map(|_| 0.01 * (1.0 + random.unit())).collect();
        // Keeps a number and tells what was kept.
        let mut keep = |array: usize, place: usize, number: f32, scale: f32| {
            if in_bytes {
                let code = e4m3_nearest(f64::from(number / scale));
                bytes[array][place] = code;
                e4m3_value(code) * f64::from(scale)
            } else {
                whole[array][place] = T::of(number);
                T::of(number).value()
            }
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (slot, length) in lengths.iter().enumerate() {
            let (mut of_slot, mut values_of_slot) = (Vec::new(), Vec::new());
            for head in 0..heads {
                let [key_scale, value_scale] = [0, 1].map(|which| scales[(slot * heads + head) * 2 + which]);
                let (mut of_head, mut values_of_head) = (Vec::new(), Vec::new());
                for position in 0..*length {
                    let at = [slot, head, position];
                    let mut key = random.normal(HEAD_WIDTH);
                    for (dimension, number) in key.iter_mut().enumerate() {
                        let place = key_place(heads, room, at) + dimension;
                        *number = keep(0, place, *number, key_scale) as f32;
                    }
                    of_head.push(key.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
                    let value = random.normal(HEAD_WIDTH);
                    let kept = value.iter().enumerate().map(|(dimension, number)| {
                        keep(1, value_place(heads, room, at, dimension), *number, value_scale)
                    });
                    values_of_head.push(kept.collect::<Vec<f64>>());
                }
                if length % 2 == 1 {
                    for dimension in 0..HEAD_WIDTH {
                        keep(1, value_place(heads, room, [slot, head, *length], dimension), 0.0, value_scale);
                    }
                }
                of_slot.push(of_head);
                values_of_slot.push(values_of_head);
            }
            keys.push(of_slot);
            values.push(values_of_slot);
        }
        let whole = whole.map(|numbers| Array::new(&numbers));
        let bytes = in_bytes.then(|| (bytes.map(|codes| Array::new(&codes)), Array::new(&scales)));
        Slots { heads, room, lengths: lengths.to_vec(), whole, bytes, keys, values }
    }

    fn cache(&mut self) -> Cache<'_, T> {
        let kept = match &mut self.bytes {
            Some(([keys, values], scales)) => {
                Kept::Bytes { keys: keys.view_mut(), values: values.view_mut(), scales: scales.view_mut() }
            }
            None => {
                let [keys, values] = &mut self.whole;
                Kept::Whole { keys: keys.view_mut(), values: values.view_mut() }
            }
        };
        Cache { kept, slots: self.lengths.len(), heads: self.heads, room: self.room }
    }

    /// Groups of (slot, items) one after the other.
    fn groups(&self, groups: &[(usize, u32)]) -> Vec<Group> {
        let mut first = 0;
        let group = |(slot, count): &(usize, u32)| {
            first += count;
            Group {
                slot: *slot as u32,
                length: self.lengths[*slot] as u32,
                first: first - count,
                count: *count,
            }
        };
        groups.iter().map(group).collect()
    }

    /// Queries (items, heads · 64): every other one is a key of its slot at one of the places where tiles, warps and splits
    /// end, four times as long, so that nearly all of its weight is there.
    fn queries(&self, groups: &[Group]) -> Vec<T> {
        let mut random = Random::new(groups.len() as u64);
        let mut queries = Vec::new();
        for group in groups {
            let length = group.length as usize;
            let edges =
                [length - 1, 0, length / 2, length.min(129) - 1, length.min(33) - 1, length.min(128) - 1];
            for item in 0..group.count as usize {
                for head in 0..self.heads {
                    let edge = edges[(item / 2 + head) % edges.len()];
                    let key = &self.keys[group.slot as usize][head][edge];
                    let query = random.normal(HEAD_WIDTH);
                    let of = |(query, key): (&f32, &f64)| {
                        T::of(if item % 2 == 0 { *key as f32 * 4.0 } else { *query })
                    };
                    queries.extend(query.iter().zip(key).map(of));
                }
            }
        }
        queries
    }

    /// What attention must give, (items, heads · 64), and the scores before it, (heads, items, positions).
    fn expected(&self, groups: &[Group], queries: &[T]) -> (Vec<f64>, Vec<Vec<Vec<f64>>>) {
        let (mut mixed, mut all_scores) = (Vec::new(), vec![Vec::new(); self.heads]);
        for group in groups {
            for item in group.first..group.first + group.count {
                for (head, all_scores) in all_scores.iter_mut().enumerate() {
                    let at = (item as usize * self.heads + head) * HEAD_WIDTH;
                    let query: Vec<f64> = queries[at..at + HEAD_WIDTH].iter().map(|x| x.value()).collect();
                    let (slot, length) = (group.slot as usize, group.length as usize);
                    let scores = scores(&query, &self.keys[slot][head][..length]);
                    mixed.extend(mix(&scores, &self.values[slot][head][..length]));
                    all_scores.push(scores);
                }
            }
        }
        (mixed, all_scores)
    }
}

/// Attends as `groups` say of the device's groups, which may be shorter.
fn attend<T: Half + Number>(
    device: &mut Emulator,
    slots: &mut Slots<T>,
    (groups, of_device): (&[Group], &[Group]),
    queries: &[T],
) -> Vec<T> {
    let items = queries.len() / (slots.heads * HEAD_WIDTH);
    let (partials, arrivals) = Workspace::lengths(items, groups.len(), slots.heads, slots.room);
    let (mut partials, mut arrivals) = (Array::<f32>::poisoned(partials), Array::new(&vec![0; arrivals]));
    let (queries, of_device) = (Array::new(queries), Array::new(of_device));
    let mut mixed = Array::<T>::poisoned(items * slots.heads * HEAD_WIDTH);
    let mut workspace = Workspace { partials: partials.view_mut(), arrivals: arrivals.view_mut() };
    let (queries, of_device, cache) = (queries.view(), of_device.view(), slots.cache());
    let to = &mut mixed.view_mut();
    // Twice: what the first launch leaves in the workspace serves the second.
    for _ in 0..2 {
        cross_attention(device, &queries, groups, &of_device, &cache, &mut workspace, to).unwrap();
    }
    assert!(arrivals.get().iter().all(|arrived| *arrived == 0), "the arrivals are zeros again");
    mixed.get().to_vec()
}

fn check<T: Half + Number>(
    in_bytes: bool,
    heads: usize,
    room: usize,
    lengths: &[usize],
    groups: &[(usize, u32)],
) {
    let mut slots = Slots::<T>::new(in_bytes, heads, room, lengths);
    let groups = slots.groups(groups);
    let queries = slots.queries(&groups);
    let (expected, _) = slots.expected(&groups, &queries);
    // Weights are rounded as the tensor cores take them, this way and that; values are of about one unit.
    let weights = if in_bytes { f16::STEP } else { T::STEP } * 0.4;
    each_order("cross_attention", |device| {
        let mixed = attend(device, &mut slots, (&groups, &groups), &queries);
        close(&mixed, &expected, T::STEP, weights);
    });
}

/// One position; both sides of a warp's 32 keys and of a split's 128; every number of queries that matters.
const EDGES: (&[usize], &[(usize, u32)]) = (
    &[1, 31, 32, 33, 127, 128, 129, 130],
    &[(0, 1), (7, 16), (3, 9), (1, 2), (2, 8), (6, 3), (4, 1), (5, 7)],
);

#[test]
fn queries_attend_to_their_slots() {
    check::<f16>(false, 2, 130, EDGES.0, EDGES.1);
    check::<bf16>(false, 1, 130, EDGES.0, EDGES.1);
    // The most heads, and one slot for more queries than a tile.
    check::<f16>(false, 20, 40, &[37], &[(0, 16), (0, 2)]);
    // 30 seconds.
    check::<f16>(false, 1, 1_500, &[1_500, 700], &[(1, 5), (0, 1)]);
    check::<bf16>(false, 1, 1_536, &[1_536], &[(0, 2)]);
}

#[test]
fn keys_and_values_may_be_bytes() {
    check::<f16>(true, 2, 130, EDGES.0, EDGES.1);
    check::<bf16>(true, 1, 130, EDGES.0, EDGES.1);
    check::<bf16>(true, 20, 40, &[37], &[(0, 16), (0, 2)]);
    check::<f16>(true, 1, 1_500, &[1_500, 769], &[(1, 5), (0, 1)]);
}

#[test]
fn a_query_gives_the_same_bits_alone_and_among_others() {
    fn check<T: Half + Number>(in_bytes: bool) {
        let mut slots = Slots::<T>::new(in_bytes, 3, 300, &[290, 100, 300]);
        let groups = slots.groups(&[(1, 3), (0, 16), (2, 1), (0, 2)]);
        let queries = slots.queries(&groups);
        let row = 3 * HEAD_WIDTH;
        each_order("cross_attention", |device| {
            let all = attend(device, &mut slots, (&groups, &groups), &queries);
            for item in [0, 2, 3, 11, 18, 19, 21] {
                let group = groups.iter().rfind(|group| group.first <= item).expect("some group has it");
                let alone = [Group { first: 0, count: 1, ..*group }];
                let at = item as usize * row..(item as usize + 1) * row;
                let one = attend(device, &mut slots, (&alone, &alone), &queries[at.clone()]);
                let bits = |values: &[T]| values.iter().map(|x| x.value().to_bits()).collect::<Vec<u64>>();
                assert_eq!(bits(&one), bits(&all[at]), "item {item}");
            }
        });
    }
    check::<f16>(false);
    check::<bf16>(true);
}

#[test]
fn a_recorded_launch_serves_shorter_slots() {
    let mut slots = Slots::<f16>::new(false, 1, 300, &[300, 120]);
    let groups = slots.groups(&[(0, 2), (1, 3)]);
    let recorded: Vec<Group> = groups.iter().map(|group| Group { length: 300, ..*group }).collect();
    let queries = slots.queries(&groups);
    let (expected, _) = slots.expected(&groups, &queries);
    each_order("cross_attention", |device| {
        let mixed = attend(device, &mut slots, (&recorded, &groups), &queries);
        close(&mixed, &expected, f16::STEP, f16::STEP);
    });
}

#[test]
fn scores_of_chosen_heads_are_told() {
    fn check<T: Half + Number>(in_bytes: bool, heads: usize, chosen: &[usize]) {
        let mut slots = Slots::<T>::new(in_bytes, heads, 180, &[177, 33]);
        let groups = slots.groups(&[(0, 16), (1, 1), (0, 5)]);
        let queries = slots.queries(&groups);
        let (_, expected) = slots.expected(&groups, &queries);
        let (items, columns) = (22, 179);
        let (device_queries, device_groups) = (Array::new(&queries), Array::new(&groups));
        each_order("cross_attention", |device| {
            let mut told = Array::new(&vec![7.0f32; chosen.len() * items * columns]);
            let (queries, of_device, cache) = (device_queries.view(), device_groups.view(), slots.cache());
            let to = &mut told.view_mut();
            alignment_scores(device, &queries, &groups, &of_device, &cache, chosen, to, columns).unwrap();
            for (head, told) in chosen.iter().zip(told.get().chunks_exact(items * columns)) {
                for (expected, told) in expected[*head].iter().zip(told.chunks_exact(columns)) {
                    let (positions, behind) = told.split_at(expected.len());
                    close(positions, expected, 1e-6, 2e-5);
                    assert!(behind.iter().all(|score| *score == 7.0), "what is behind is left as it was");
                }
            }
        });
    }
    check::<f16>(false, 6, &[0, 2, 5]);
    check::<bf16>(false, 2, &[1]);
    check::<f16>(true, 20, &[3, 19]);
    check::<bf16>(true, 1, &[0]);
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("cross_attention", |device| {
        let numbers = Array::new(&[f16::ZERO; 2 * HEAD_WIDTH]);
        let group = |slot, length, first, count| Group { slot, length, first, count };
        let mut refuse = |room: usize, groups: &[Group], chosen: &[usize], said: &str| {
            let mut slots = [(); 2].map(|()| Array::new(&[f16::ZERO; 4 * HEAD_WIDTH]));
            let mut partials = Array::new(&[0.0; 2 * 68]);
            let (mut arrivals, mut scores) = (Array::new(&[0; 2]), Array::new(&[0.0; 4]));
            let mut mixed = Array::<f16>::poisoned(2 * HEAD_WIDTH);
            let [keys, values] = &mut slots;
            let kept = Kept::Whole { keys: keys.view_mut(), values: values.view_mut() };
            let cache = Cache { kept, slots: 2, heads: 1, room };
            let mut workspace = Workspace { partials: partials.view_mut(), arrivals: arrivals.view_mut() };
            let of_device = Array::new(groups);
            let (queries, of_device, to) = (numbers.view(), of_device.view(), &mut mixed.view_mut());
            let refused = if chosen.is_empty() {
                cross_attention(device, &queries, groups, &of_device, &cache, &mut workspace, to)
            } else {
                let to = &mut scores.view_mut();
                alignment_scores(device, &queries, groups, &of_device, &cache, chosen, to, 1)
            };
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        };
        refuse(2, &[group(2, 1, 0, 1)], &[], "group 0 is 1 positions of slot 2 of 2 slots");
        refuse(2, &[group(0, 3, 0, 1)], &[], "group 0 is 3 positions of slot 0 of 2 slots with room for 2");
        refuse(2, &[group(0, 0, 0, 1)], &[], "group 0 is 0 positions");
        refuse(2, &[group(0, 1, 0, 17)], &[], "group 0 has 17 items");
        refuse(2, &[group(0, 1, 0, 0)], &[], "group 0 has 0 items");
        refuse(
            2,
            &[group(0, 1, 0, 1), group(1, 1, 2, 1)],
            &[],
            "group 1 has 1 items from 2 on; it takes 1 to 16 from 1",
        );
        refuse(2, &[group(0, 1, 0, 3)], &[], "queries has 128 elements of the 192");
        refuse(3, &[group(0, 1, 0, 1)], &[], "room for 3 positions");
        refuse(1_538, &[group(0, 1, 0, 1)], &[], "room for 1538 positions");
        refuse(4, &[group(0, 1, 0, 1)], &[], "the cache of keys has 256 elements of the 512");
        refuse(2, &[group(0, 1, 0, 1)], &[1], "the heads [1] do not ascend within 1");
        refuse(2, &[group(0, 1, 0, 1)], &[0, 0], "the heads [0, 0] do not ascend");
        refuse(2, &[group(0, 2, 0, 1)], &[0], "1 columns for 2 positions");
    });
}
