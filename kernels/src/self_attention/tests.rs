use half::{bf16, f16};

use super::reference::attend;
use super::{Cache, HEAD_WIDTH, Item, self_attention};
use crate::testing::{Array, Number, Random, close, each_order};
use crate::view::Half;

/// Runs of items: (row, first position, items).
fn items_of(runs: &[(u32, u32, u32)]) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for (row, position, count) in runs {
        let first = items.len() as u32;
        items.extend((0..*count).map(|i| Item { row: *row, position: position + i, first }));
    }
    items
}

fn check<T: Half + Number>(heads: usize, room: usize, runs: &[(u32, u32, u32)]) {
    let items = items_of(runs);
    let (rows, width) = (4, heads * HEAD_WIDTH);
    let mut random = Random::new((heads * room + items.len()) as u64);
    let mut numbers = |count: usize| -> Vec<T> { random.normal(count).into_iter().map(T::of).collect() };
    let qkv = numbers(items.len() * 3 * width);
    let place =
        |row: usize, head: usize, position: usize| ((row * heads + head) * room + position) * HEAD_WIDTH;
    let (mut keys, mut values) = (numbers(rows * width * room), numbers(rows * width * room));
    // What no launch has kept yet is no number, so that a read of it shows.
    for (row, position, _) in runs {
        for head in 0..heads {
            let unknown = place(*row as usize, head, *position as usize)..place(*row as usize, head, room);
            keys[unknown.clone()].fill(T::of(f32::NAN));
            values[unknown].fill(T::of(f32::NAN));
        }
    }
    let (mut keys_after, mut values_after) = (keys.clone(), values.clone());
    for (item, qkv) in items.iter().zip(qkv.chunks_exact(3 * width)) {
        for head in 0..heads {
            let to = place(item.row as usize, head, item.position as usize)..;
            keys_after[to.clone()][..HEAD_WIDTH]
                .copy_from_slice(&qkv[width + head * HEAD_WIDTH..][..HEAD_WIDTH]);
            values_after[to][..HEAD_WIDTH]
                .copy_from_slice(&qkv[2 * width + head * HEAD_WIDTH..][..HEAD_WIDTH]);
        }
    }
    let vectors = |cache: &[T], item: &Item, head: usize| -> Vec<Vec<f64>> {
        (0..=item.position as usize)
            .map(|position| &cache[place(item.row as usize, head, position)..][..HEAD_WIDTH])
            .map(|vector| vector.iter().map(|x| x.value()).collect())
            .collect()
    };
    let mut expected = Vec::new();
    for (item, qkv) in items.iter().zip(qkv.chunks_exact(3 * width)) {
        for head in 0..heads {
            let query: Vec<f64> = qkv[head * HEAD_WIDTH..][..HEAD_WIDTH].iter().map(|x| x.value()).collect();
            expected.extend(attend(
                &query,
                &vectors(&keys_after, item, head),
                &vectors(&values_after, item, head),
            ));
        }
    }
    let (qkv, device_items) = (Array::new(&qkv), Array::new(&items));
    each_order("self_attention", |device| {
        let (mut keys, mut values) = (Array::new(&keys), Array::new(&values));
        let mut mixed = Array::<T>::poisoned(items.len() * width);
        let mut cache = Cache { keys: keys.view_mut(), values: values.view_mut(), rows, room };
        let view = device_items.view();
        self_attention(device, &qkv.view(), &items, &view, &mut cache, &mut mixed.view_mut(), heads).unwrap();
        close(mixed.get(), &expected, T::STEP, 2e-6);
        let same = |got: &[T], expected: &[T]| {
            got.iter().zip(expected).all(|(a, b)| a.value().to_bits() == b.value().to_bits())
        };
        assert!(
            same(keys.get(), &keys_after) && same(values.get(), &values_after),
            "the caches hold the items"
        );
    });
}

#[test]
fn tokens_attend_to_those_before_them() {
    // A text's first token; rows at positions of their own, on both sides of a turn of all groups (64 keys); the longest.
    check::<f16>(1, 1, &[(0, 0, 1)]);
    check::<f16>(6, 130, &[(2, 63, 1), (0, 64, 1), (3, 129, 1), (1, 15, 1)]);
    check::<bf16>(20, 70, &[(1, 65, 1), (3, 0, 1)]);
    check::<f16>(2, 448, &[(0, 447, 1)]);
}

#[test]
fn a_prompt_attends_to_itself_and_to_what_was_kept() {
    check::<f16>(3, 80, &[(1, 0, 5), (0, 30, 1), (3, 60, 9)]);
    check::<bf16>(1, 80, &[(0, 0, 70)]);
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("self_attention", |device| {
        let numbers = Array::new(&[f16::ZERO; 3 * HEAD_WIDTH * 2]);
        let mut refuse = |items: &[Item], said: &str| {
            let (mut keys, mut values) =
                (Array::new(&[f16::ZERO; 16 * HEAD_WIDTH]), Array::new(&[f16::ZERO; 16 * HEAD_WIDTH]));
            let mut mixed = Array::<f16>::poisoned(2 * HEAD_WIDTH);
            let mut cache = Cache { keys: keys.view_mut(), values: values.view_mut(), rows: 2, room: 8 };
            let on_device = Array::new(items);
            let (view, mixed) = (on_device.view(), &mut mixed.view_mut());
            let refused =
                self_attention(device, &numbers.view(), items, &view, &mut cache, mixed, 1).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
        };
        refuse(&items_of(&[(2, 0, 1)]), "row 2, position 0 of 2 rows");
        refuse(&items_of(&[(0, 7, 2)]), "row 0, position 8");
        refuse(&items_of(&[(0, 1, 1), (0, 3, 1)]), "item 1 neither");
        refuse(&items_of(&[(0, 1, 1), (1, 0, 1), (0, 2, 1)]), "item 2 neither");
        refuse(&[Item { row: 0, position: 0, first: 1 }], "item 0 neither");
        refuse(&items_of(&[(0, 0, 1), (1, 0, 2)]), "qkv has 384 elements of the 576");
    });
}
