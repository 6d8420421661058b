//! Whether AAC is really HE-AAC: its upper half is coded as SBR, which the built-in decoder lacks.

/// The core of HE-AAC runs at half the rate; above this it is plain AAC-LC.
pub const CORE_RATE_MAX: u32 = 24_000;

/// Packets of the track that are asked.
const PACKETS: u32 = 16;
/// Packets of other tracks that may pass by meanwhile.
const PASSED_MAX: u32 = 2_000;

/// Whether the AudioSpecificConfig (ISO 14496-3, 1.6.2.1) says SBR or PS itself.
pub fn announced(config: Option<&[u8]>) -> bool {
    let Some(config) = config else { return false };
    let mut bits = Bits { bytes: config, at: 0 };
    let object = bits.object_type();
    if matches!(object, 5 | 29) {
        return true;
    }
    if bits.take(4) == 15 {
        bits.at += 24;
    }
    bits.at += 4;
    // GASpecificConfig of AAC-LC without extras: three flags; then perhaps the backward compatible extension.
    bits.at += 3;
    bits.take(11) == 0x2b7 && bits.object_type() == 5 && bits.take(1) == 1
}

/// Asks the first packets of a track: SBR data that no header announces shows only in them.
#[derive(Default)]
pub struct Votes {
    asked: u32,
    yes: u32,
    passed: u32,
}

impl Votes {
    /// Asks one packet of the track.
    pub fn add(&mut self, packet: &[u8]) {
        self.asked += 1;
        self.yes += u32::from(ends_with_sbr(packet));
    }

    /// A packet of another track passed by.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Whether enough packets were asked.
    pub fn are_in(&self) -> bool {
        self.asked >= PACKETS || self.passed >= PASSED_MAX
    }

    /// Whether most of them carry SBR data. A single packet may look so by chance (once in some hundred).
    pub fn are_for(&self) -> bool {
        self.yes >= 2 && self.yes * 2 > self.asked
    }
}

/// Whether a raw_data_block ends in fill elements, one of which holds SBR data, and the end mark. It is read from
/// the back, because finding the end of the sound that comes first needs all of its Huffman codes.
fn ends_with_sbr(packet: &[u8]) -> bool {
    const FILL: u32 = 6;
    const END: u32 = 7;
    let len = packet.len() * 8;
    // For each bit: 0 no such tail begins here, 1 one does, 2 one with SBR does.
    let mut tails = vec![0u8; len + 1];
    let mut sbr = false;
    for at in (0..len.saturating_sub(2)).rev() {
        let mut bits = Bits { bytes: packet, at };
        match bits.take(3) {
            END if len - bits.at < 8 && bits.take(len - bits.at) == 0 => tails[at] = 1,
            FILL => {
                let mut count = bits.take(4) as usize;
                if count == 15 {
                    count = 14 + bits.take(8) as usize;
                }
                let payload = bits.at;
                let next = payload + count * 8;
                if next <= len && tails[next] > 0 {
                    let is_sbr = count > 0 && matches!(bits.take(4), 0xd | 0xe);
                    tails[at] = if is_sbr { 2 } else { tails[next] };
                }
            }
            _ => {}
        }
        // A tail that begins at the very first bit would leave no room for sound.
        sbr |= tails[at] == 2 && at > 16;
    }
    sbr
}

/// Bits from the most significant on; zeros beyond the end.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, len: usize) -> u32 {
        let mut value = 0;
        for _ in 0..len {
            let byte = self.bytes.get(self.at / 8).copied().unwrap_or(0);
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        value
    }

    fn object_type(&mut self) -> u32 {
        match self.take(5) {
            31 => 32 + self.take(6),
            object => object,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits, given as (value, how many).
    fn packet(fields: &[(u32, usize)]) -> Vec<u8> {
        let bits: Vec<u8> = fields
            .iter()
            .flat_map(|&(value, len)| (0..len).rev().map(move |n| (value >> n & 1) as u8))
            .collect();
        bits.chunks(8)
            .map(|bits| bits.iter().enumerate().fold(0, |byte, (n, bit)| byte | bit << (7 - n)))
            .collect()
    }

    /// A single channel element stands first; what is in it does not matter here.
    const SOUND: [(u32, usize); 4] = [(0, 7), (0x1b2c, 16), (0x55aa, 16), (0x3, 5)];

    fn fill(extension: u32, count: u32) -> Vec<(u32, usize)> {
        let mut fields = vec![(6, 3)];
        if count < 15 {
            fields.push((count, 4));
        } else {
            fields.extend([(15, 4), (count - 14, 8)]);
        }
        fields.push((extension, 4));
        fields.extend(std::iter::repeat_n((0x2, 4), count as usize * 2 - 1));
        fields
    }

    #[test]
    fn sbr_data_shows_at_the_end_of_a_packet() {
        for count in [1, 9, 14, 15, 40] {
            for (extension, is_sbr) in [(0xd, true), (0xe, true), (0x0, false), (0xb, false)] {
                let whole = [&SOUND[..], &fill(extension, count), &[(7, 3)]].concat();
                assert_eq!(ends_with_sbr(&packet(&whole)), is_sbr, "{extension:x} {count}");
                let stuffed = [&SOUND[..], &fill(extension, count), &fill(0, 3), &[(7, 3)]].concat();
                assert_eq!(ends_with_sbr(&packet(&stuffed)), is_sbr, "{extension:x} {count} and stuffing");
            }
        }
        assert!(!ends_with_sbr(&[]));
        assert!(!ends_with_sbr(&packet(&[&SOUND[..], &[(7, 3)]].concat())));
    }

    #[test]
    fn chance_does_not_outvote() {
        let mut seed = 3u64;
        let mut yes = 0;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..300)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    (seed >> 32) as u8
                })
                .collect();
            yes += u32::from(ends_with_sbr(&bytes));
        }
        assert!(yes < 60, "{yes} of 2000 random packets look like SBR");
        let mut votes = Votes::default();
        let with = packet(&[&SOUND[..], &fill(0xd, 9), &[(7, 3)]].concat());
        let without = packet(&[&SOUND[..], &[(7, 3)]].concat());
        (0..5).for_each(|_| votes.add(&with));
        (0..11).for_each(|_| votes.add(&without));
        assert!(votes.are_in() && !votes.are_for());
    }

    #[test]
    fn configs_that_announce_it() {
        // AAC-LC 44.1 kHz stereo; HE-AAC; HE-AAC v2; LC with the backward compatible extension, on and off.
        assert!(!announced(None));
        assert!(!announced(Some(&[0x12, 0x10])));
        assert!(announced(Some(&packet(&[(5, 5), (6, 4), (2, 4), (3, 4), (2, 5), (0, 3)]))));
        assert!(announced(Some(&packet(&[(29, 5), (6, 4), (1, 4), (3, 4), (2, 5), (0, 3)]))));
        assert!(announced(Some(&packet(&[
            (2, 5),
            (6, 4),
            (2, 4),
            (0, 3),
            (0x2b7, 11),
            (5, 5),
            (1, 1),
            (3, 4)
        ]))));
        assert!(!announced(Some(&packet(&[(2, 5), (6, 4), (2, 4), (0, 3), (0x2b7, 11), (5, 5), (0, 1)]))));
    }
}
