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
