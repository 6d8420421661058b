//! The cache's layout and its type of one byte in plain Rust.

use super::HEAD_WIDTH;

/// Where a slot's key of a head and position begins.
pub fn key_place(heads: usize, room: usize, [slot, head, position]: [usize; 3]) -> usize {
    ((slot * heads + head) * room + position) * HEAD_WIDTH
}

/// Where a dimension of a slot's value of a head and position stands.
pub fn value_place(heads: usize, room: usize, at: [usize; 3], dimension: usize) -> usize {
    let pair = [at[0], at[1], at[2] / 2 * 2];
    key_place(heads, room, pair) + dimension * 2 + at[2] % 2
}

/// What a code of e4m3 says.
pub fn e4m3_value(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

/// The code nearest to a number, among two equally near the even one.
pub fn e4m3_nearest(value: f64) -> u8 {
    let size = (0..0x7f)
        .min_by(|a, b| {
            let far = |code: u8| (e4m3_value(code) - value.abs()).abs();
            far(*a).total_cmp(&far(*b)).then((a % 2).cmp(&(b % 2)))
        })
        .expect("there are numbers");
    if value.is_sign_negative() { size | 0x80 } else { size }
}
