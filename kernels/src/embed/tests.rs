use half::{bf16, f16};

use super::{Item, Tables, embed};
use crate::device::Error;
use crate::sample::NONE;
use crate::testing::{Array, Number, Random, each_order};
use crate::view::Half;

const VOCABULARY: usize = 37;
const ROOM: usize = 11;

/// A given token, the same again, one sampled, the last of everything.
const ITEMS: [Item; 4] = [
    Item { row: 0, position: 0, token: 5 },
    Item { row: 0, position: 1, token: 5 },
    Item { row: 2, position: 7, token: NONE },
    Item { row: 1, position: 10, token: 36 },
];
const NEXT: [u32; 3] = [NONE, NONE, 20];

/// One sum of two numbers, so it is exact.
fn check<T: Half + Number>(width: usize) {
    let mut random = Random::new(width as u64);
    let table: Vec<T> = random.normal(VOCABULARY * width).into_iter().map(T::of).collect();
    let places = random.normal(ROOM * width);
    each_order("embed", |device| {
        let (items, next) = (Array::new(&ITEMS), Array::new(&NEXT));
        let (embeddings, positions) = (Array::new(&table), Array::new(&places));
        let mut x = Array::<f32>::poisoned(ITEMS.len() * width);
        let tables = Tables { embeddings: embeddings.view(), positions: positions.view(), width };
        embed(device, &ITEMS, &items.view(), &next.view(), tables, &mut x.view_mut()).unwrap();
        for (item, x) in ITEMS.iter().zip(x.get().chunks_exact(width)) {
            let token = if item.token == NONE { NEXT[item.row as usize] } else { item.token } as usize;
            for (i, x) in x.iter().enumerate() {
                let expected =
                    table[token * width + i].value() as f32 + places[item.position as usize * width + i];
                assert_eq!(*x, expected, "value {i} of {item:?}");
            }
        }
    });
}

#[test]
fn tokens_become_states() {
    for width in [8, 384, 1_024, 1_032, 1_280] {
        check::<f16>(width);
        check::<bf16>(width);
    }
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("embed", |device| {
        let table = Array::new(&[f16::of(0.0); 64]);
        let positions = Array::new(&[0.0f32; 64]);
        let next = Array::new(&[0u32; 1]);
        let good = Item { row: 0, position: 1, token: 2 };
        for (item, width, len, said) in [
            (good, 12, 64, "states of 12 values"),
            (good, 0, 64, "states of 0 values"),
            (Item { position: 8, ..good }, 8, 64, "position 8 of 8"),
            (Item { token: 8, ..good }, 8, 64, "token 8 of 8"),
            (Item { row: 1, token: NONE, ..good }, 8, 64, "sampled in row 1 of 1"),
            (good, 8, 4, "x has 4 elements of the 8"),
        ] {
            let items = Array::new(&[item]);
            let mut x = Array::<f32>::poisoned(len);
            let tables = Tables { embeddings: table.view(), positions: positions.view(), width };
            let refused = embed(device, &[item], &items.view(), &next.view(), tables, &mut x.view_mut());
            let Err(refused @ Error::Contract { .. }) = refused else { panic!("{refused:?}") };
            assert!(refused.to_string().contains(said), "{refused}");
        }
    });
}
