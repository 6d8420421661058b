use half::f16;

use super::{COPIES_MAX, Group, RowCopy, copy_caches, copy_states, groups};
use crate::device::Error;
use crate::sample::RowState;
use crate::self_attention::{Cache, HEAD_WIDTH};
use crate::testing::{Array, Random, each_order};

fn copies_of(copies: &[(u32, u32, u32)]) -> Vec<RowCopy> {
    copies
        .iter()
        .map(|(from, to, positions)| RowCopy { from: *from, to: *to, positions: *positions })
        .collect()
}

/// What rows (rows, size of one) become, `count` of each copied, all read before any is written.
fn copied<T: Copy>(rows: &[T], size: usize, copies: &[RowCopy], count: impl Fn(&RowCopy) -> usize) -> Vec<T> {
    let mut after = rows.to_vec();
    for copy in copies {
        let count = count(copy);
        after[copy.to as usize * size..][..count]
            .copy_from_slice(&rows[copy.from as usize * size..][..count]);
    }
    after
}

fn check((layers, rows, heads, room): (usize, usize, usize, usize), copies: &[(u32, u32, u32)]) {
    let copies = copies_of(copies);
    let groups = groups(&copies).unwrap();
    let mut random = Random::new((layers * rows * heads) as u64);
    let mut numbers = || -> Vec<u16> {
        (0..layers * rows * heads * room * HEAD_WIDTH).map(|_| random.whole() as u16).collect()
    };
    let (keys, values) = (numbers(), numbers());
    // Layer by layer and head by head, each a row of its own.
    let mut of_heads = Vec::new();
    for (layer, head) in (0..layers).flat_map(|layer| (0..heads).map(move |head| (layer, head))) {
        let row = |row: u32| ((layer * rows + row as usize) * heads + head) as u32;
        of_heads.extend(copies.iter().map(|copy| RowCopy {
            from: row(copy.from),
            to: row(copy.to),
            ..*copy
        }));
    }
    let expected = |kept: &[u16]| {
        copied(kept, room * HEAD_WIDTH, &of_heads, |copy| copy.positions as usize * HEAD_WIDTH)
    };
    let halves = |bits: &[u16]| -> Vec<f16> { bits.iter().map(|bits| f16::from_bits(*bits)).collect() };
    let states: Vec<RowState> =
        (0..rows).map(|row| RowState { count: row as u32, ..RowState::new(row as u64, 0.5, None) }).collect();
    let next: Vec<u32> = (100..100 + rows as u32).collect();
    let device_groups = Array::new(&groups);
    each_order("copy_rows", |device| {
        let (mut of_keys, mut of_values) = (Array::new(&halves(&keys)), Array::new(&halves(&values)));
        let mut cache = Cache { keys: of_keys.view_mut(), values: of_values.view_mut(), rows, room };
        copy_caches(device, &groups, &device_groups.view(), &mut cache, (layers, heads)).unwrap();
        let bits = |kept: &Array<f16>| -> Vec<u16> { kept.get().iter().map(|x| x.to_bits()).collect() };
        assert!(bits(&of_keys) == expected(&keys), "keys of {copies:?}");
        assert!(bits(&of_values) == expected(&values), "values of {copies:?}");
        let (mut of_states, mut of_next) = (Array::new(&states), Array::new(&next));
        let view = device_groups.view();
        copy_states(device, &groups, &view, &mut of_states.view_mut(), &mut of_next.view_mut()).unwrap();
        assert_eq!(of_states.get(), copied(&states, 1, &copies, |_| 1));
        assert_eq!(of_next.get(), copied(&next, 1, &copies, |_| 1));
    });
}

#[test]
fn rows_become_others() {
    // Nothing at all, and a row that becomes itself.
    check((1, 1, 1, 1), &[]);
    check((1, 2, 1, 1), &[(1, 1, 1)]);
    // A text without a position; both sides of a block's positions; a whole row.
    check((1, 2, 1, 1), &[(1, 0, 0)]);
    check((2, 3, 20, 66), &[(2, 0, 65)]);
    check((1, 2, 6, 64), &[(0, 1, 64)]);
}

#[test]
fn rows_change_places() {
    // Two, a round of three, a chain, and one that becomes several, of texts of different lengths.
    check((1, 2, 3, 8), &[(0, 1, 5), (1, 0, 8)]);
    check(
        (3, 12, 2, 70),
        &[(0, 1, 7), (1, 2, 70), (2, 0, 1), (5, 6, 9), (6, 7, 3), (9, 10, 66), (9, 11, 66)],
    );
    let round: Vec<_> = (0..16).map(|row| (row, (row + 5) % 16, 4)).collect();
    check((1, 17, 1, 5), &round);
}

#[test]
fn copies_are_sorted_into_groups() {
    let sorted = |copies: &[(u32, u32, u32)]| -> Vec<Vec<(u32, u32)>> {
        let groups = groups(&copies_of(copies)).unwrap();
        groups.iter().map(|group| group.copies().iter().map(|copy| (copy.from, copy.to)).collect()).collect()
    };
    assert!(sorted(&[]).is_empty());
    assert_eq!(sorted(&[(0, 1, 1), (3, 3, 1), (2, 4, 1)]), [[(0, 1)], [(2, 4)]]);
    // The last one connects the two before it.
    assert_eq!(sorted(&[(0, 1, 1), (2, 3, 1), (3, 0, 1)]), [[(0, 1), (2, 3), (3, 0)]]);
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    fn says<T: std::fmt::Debug>(refused: Result<T, Error>, said: &str) {
        let Err(refused @ Error::Contract { .. }) = refused else { panic!("{refused:?}") };
        assert!(refused.to_string().contains(said), "{refused}");
    }
    says(groups(&copies_of(&[(0, 1, 1), (2, 1, 1)])), "row 1 becomes a copy twice");
    let many: Vec<_> = (0..=COPIES_MAX as u32).map(|row| (row, row + 1, 1)).collect();
    says(groups(&copies_of(&many)), "17 copies touch the same rows");
    each_order("copy_rows", |device| {
        let mut refuse = |groups: &[Group], shape: (usize, usize), said: &str| {
            let numbers = [f16::ZERO; 2 * 4 * HEAD_WIDTH];
            let (mut keys, mut values) = (Array::new(&numbers), Array::new(&numbers));
            let mut cache = Cache { keys: keys.view_mut(), values: values.view_mut(), rows: 2, room: 4 };
            let on_device = Array::new(&groups[..groups.len().min(2)]);
            says(copy_caches(device, groups, &on_device.view(), &mut cache, shape), said);
        };
        let of = |copies: &[(u32, u32, u32)]| groups(&copies_of(copies)).unwrap();
        refuse(&of(&[(0, 2, 1)]), (1, 1), "row 2 becomes row 0 of 2");
        refuse(&of(&[(2, 0, 1)]), (1, 1), "row 0 becomes row 2 of 2");
        refuse(&of(&[(0, 1, 5)]), (1, 1), "5 positions of rows with room for 4");
        refuse(&of(&[(0, 1, 1), (2, 3, 1), (4, 5, 1)]), (1, 1), "3 groups of 2 rows, 2 on the device");
        let apart = [of(&[(0, 1, 1)]), of(&[(1, 0, 1)])].concat();
        refuse(&apart, (1, 1), "groups 0 and 1 both have row 1");
        refuse(&[Group { count: 17, ..apart[0] }], (1, 1), "group 0 has 17 copies");
        refuse(&of(&[(0, 1, 1)]), (0, 1), "0 layers of 1 heads");
        refuse(&of(&[(0, 1, 1)]), (1, 0), "1 layers of 0 heads");
        refuse(&of(&[(0, 1, 1)]), (1, 2), "the cache of keys has 512 elements of the 1024");
        let (mut states, mut next) = (Array::new(&[RowState::new(0, 0.0, None); 2]), Array::new(&[0; 1]));
        let (one, on_device) = (of(&[(0, 1, 1)]), Array::new(&of(&[(0, 1, 1)])));
        let (states, next) = (&mut states.view_mut(), &mut next.view_mut());
        says(copy_states(device, &one, &on_device.view(), states, next), "next has 1 elements of the 2");
    });
}
