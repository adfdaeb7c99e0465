//! The registers: one table, by which the server encodes, `inspectd modbus-map` prints and the guide is checked.
//!
//! ```text
//!   0 ..= 68    from the station   functions 3, 4, 23
//! 200 ..= 233   from the PLC       functions 3, 4, 6, 16, 23
//! ```
//!
//! Addresses are those in the frame, from 0. Words of two registers have the high register first, texts the first
//! character in the high byte of the first register; a text is padded with NUL. Both blocks fit into one read, so that a
//! PLC can take one state as a whole.

/// How the registers of a word are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One register, 0..=65535.
    U16,
    /// Two registers, the high one first.
    U32,
    /// One register of single bits, bit 0 the lowest.
    Bits,
    /// Two characters a register, the first one in the high byte.
    Ascii,
}

impl Kind {
    /// Stable word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::Bits => "bits",
            Self::Ascii => "ascii",
        }
    }
}

/// Who writes a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The station writes, the PLC reads.
    Read,
    /// The PLC writes, and reads what it wrote.
    Write,
}

impl Access {
    /// Stable word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// One word of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    /// Of its first register, from 0.
    pub address: u16,
    /// Registers.
    pub words: u16,
    /// Stable word.
    pub name: &'static str,
    /// How it is read.
    pub kind: Kind,
    /// Who writes it.
    pub access: Access,
    /// Of a number; empty without one.
    pub unit: &'static str,
    /// For people.
    pub meaning: &'static str,
}

/// A word that the station writes; its place in [`OUTPUTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// `protocol`
    Protocol,
    /// `epoch`
    Epoch,
    /// `heartbeat`
    Heartbeat,
    /// `status`
    Status,
    /// `error_code`
    ErrorCode,
    /// `recipe`
    Recipe,
    /// `trigger_count`
    TriggerCount,
    /// `buffers_free`
    BuffersFree,
    /// `dropped`
    Dropped,
    /// `discarded`
    Discarded,
    /// `config_checksum`
    ConfigChecksum,
    /// `result_count`
    ResultCount,
    /// `result_count_long`
    ResultCountLong,
    /// `result_trigger`
    ResultTrigger,
    /// `result_recipe`
    ResultRecipe,
    /// `verdict`
    Verdict,
    /// `reason`
    Reason,
    /// `grade`
    Grade,
    /// `findings`
    Findings,
    /// `score`
    Score,
    /// `latency`
    Latency,
    /// `inspection_id`
    InspectionId,
    /// `part_id_echo`
    PartIdEcho,
    /// `lot_echo`
    LotEcho,
    /// `expected_echo`
    ExpectedEcho,
}

/// What `protocol` says: another number is another map.
pub(crate) const PROTOCOL: u16 = 1;
/// Where the station's words begin.
pub(crate) const OUT_AT: u16 = 0;
/// Registers that the station writes.
pub(crate) const OUT_WORDS: usize = 69;
/// Where the PLC's words begin.
pub(crate) const IN_AT: u16 = 200;
/// Registers that the PLC writes.
pub(crate) const IN_WORDS: usize = 34;

/// Places in the PLC's block.
pub(crate) const CONTROL: usize = 0;
/// The recipe number that is wanted.
pub(crate) const RECIPE_WANTED: usize = 1;
/// The part's id, [`PART_WORDS`] registers.
pub(crate) const PART_ID: usize = 2;
/// Its lot, [`PART_WORDS`] registers.
pub(crate) const LOT: usize = 10;
/// The text that it should carry, [`EXPECTED_WORDS`] registers.
pub(crate) const EXPECTED: usize = 18;
/// Registers of a part's id or lot: 16 characters.
pub(crate) const PART_WORDS: usize = 8;
/// Registers of an expected text: 32 characters.
pub(crate) const EXPECTED_WORDS: usize = 16;

use Access::{Read, Write};
use Kind::{Ascii, Bits, U16, U32};

const fn register(
    (address, words): (u16, u16),
    name: &'static str,
    (kind, access): (Kind, Access),
    unit: &'static str,
    meaning: &'static str,
) -> Register {
    Register { address, words, name, kind, access, unit, meaning }
}

/// The station's words, in the order of [`Out`].
pub(crate) const OUTPUTS: &[Register] = &[
    register((0, 1), "protocol", (U16, Read), "", "version of this map: 1"),
    register((1, 1), "epoch", (U16, Read), "", "another number after each start; counts begin anew with it"),
    register((2, 1), "heartbeat", (U16, Read), "s", "counts every second; one that stands is a dead station"),
    register((3, 1), "status", (Bits, Read), "", "see the status bits"),
    register(
        (4, 1),
        "error_code",
        (U16, Read),
        "",
        "why error or command_failed is set; see the error codes",
    ),
    register((5, 1), "recipe", (U16, Read), "", "number of the active recipe; 0: it has no number"),
    register(
        (6, 1),
        "trigger_count",
        (U16, Read),
        "",
        "triggers asked for, 0..32767; set before trigger_ack",
    ),
    register((7, 1), "buffers_free", (U16, Read), "", "results that still find room, of 10"),
    register((8, 1), "dropped", (U16, Read), "", "results that found no room since the last reset"),
    register(
        (9, 1),
        "discarded",
        (U16, Read),
        "",
        "results and parts under way that the last reset discarded",
    ),
    register(
        (10, 2),
        "config_checksum",
        (U32, Read),
        "",
        "of the config in force; another after each change",
    ),
    register((12, 1), "result_count", (U16, Read), "", "number of the result that is shown, 0..32767"),
    register((13, 2), "result_count_long", (U32, Read), "", "the same without the limit"),
    register((15, 1), "result_trigger", (U16, Read), "", "trigger_count of its trigger; 0 without one"),
    register(
        (16, 1),
        "result_recipe",
        (U16, Read),
        "",
        "number of the recipe that judged it; 0: it has none",
    ),
    register((17, 1), "verdict", (U16, Read), "", "1 pass, 2 fail, 3 review; 0 while result_valid is off"),
    register((18, 1), "reason", (U16, Read), "", "why it is no pass; see the reasons"),
    register((19, 1), "grade", (U16, Read), "", "0 ok, 1 cosmetic, 2 rework, 3 reject"),
    register((20, 1), "findings", (U16, Read), "", "defects that were found"),
    register((21, 1), "score", (U16, Read), "1/1000", "how likely the part is defective"),
    register((22, 2), "latency", (U32, Read), "ms", "from the exposure to the verdict"),
    register((24, 13), "inspection_id", (Ascii, Read), "", "the record in the store; empty without one"),
    register((37, 8), "part_id_echo", (Ascii, Read), "", "part_id as it was at the trigger"),
    register((45, 8), "lot_echo", (Ascii, Read), "", "lot as it was at the trigger"),
    register((53, 16), "expected_echo", (Ascii, Read), "", "expected as it was at the trigger"),
];

/// The PLC's words.
pub(crate) const INPUTS: &[Register] = &[
    register((200, 1), "control", (Bits, Write), "", "see the control bits"),
    register((201, 1), "recipe_wanted", (U16, Write), "", "for recipe_change: a number of [modbus] recipes"),
    register((202, 8), "part_id", (Ascii, Write), "", "of the part that is triggered next, 16 characters"),
    register((210, 8), "lot", (Ascii, Write), "", "its lot, 16 characters"),
    register((218, 16), "expected", (Ascii, Write), "", "the text that it should carry, 32 characters"),
];

impl Out {
    /// Its row.
    pub(crate) const fn register(self) -> &'static Register {
        &OUTPUTS[self as usize]
    }
}

/// A bit of `status` or `control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bit {
    /// 0 is the lowest.
    pub bit: u16,
    /// Stable word.
    pub name: &'static str,
    /// For people.
    pub meaning: &'static str,
}

const fn bit(bit: u16, name: &'static str, meaning: &'static str) -> Bit {
    Bit { bit, name, meaning }
}

/// The bits of `status`.
pub(crate) mod status {
    #![allow(missing_docs, reason = "each is a row of `STATUS_BITS`, which says what it means")]
    pub(crate) const READY: u16 = 1 << 0;
    pub(crate) const TRIGGER_ACK: u16 = 1 << 1;
    pub(crate) const ACQUIRING: u16 = 1 << 2;
    pub(crate) const BUSY: u16 = 1 << 3;
    pub(crate) const RESULT_VALID: u16 = 1 << 4;
    pub(crate) const PASS: u16 = 1 << 5;
    pub(crate) const FAIL: u16 = 1 << 6;
    pub(crate) const REVIEW: u16 = 1 << 7;
    pub(crate) const OVERRUN: u16 = 1 << 8;
    pub(crate) const ERROR: u16 = 1 << 9;
    pub(crate) const PAUSED: u16 = 1 << 10;
    pub(crate) const COMMAND_ACK: u16 = 1 << 11;
    pub(crate) const COMMAND_FAILED: u16 = 1 << 12;
    pub(crate) const ONLINE: u16 = 1 << 13;
    pub(crate) const ENABLED: u16 = 1 << 14;
    pub(crate) const RESET_ACK: u16 = 1 << 15;
}

/// What the bits of `status` mean.
pub(crate) const STATUS_BITS: &[Bit] = &[
    bit(0, "ready", "a rising trigger would be taken now"),
    bit(1, "trigger_ack", "the trigger was taken; falls after trigger has fallen"),
    bit(2, "acquiring", "the picture of a part is not taken yet: it must not move"),
    bit(3, "busy", "a part is under way"),
    bit(4, "result_valid", "the words of the result are one result; falls when result_ack rises"),
    bit(5, "pass", "it is a pass; only with result_valid"),
    bit(6, "fail", "it is a fail; only with result_valid"),
    bit(7, "review", "it is a review; only with result_valid"),
    bit(8, "overrun", "a result found no room and is missing here; until reset"),
    bit(9, "error", "a trigger or recipe change was refused; until the next that is taken, or reset"),
    bit(10, "paused", "the camera is paused by a person or a program"),
    bit(11, "command_ack", "the recipe was changed; falls after recipe_change has fallen"),
    bit(12, "command_failed", "it was not; falls after recipe_change has fallen"),
    bit(13, "online", "the camera gives pictures, and there is a recipe to judge by"),
    bit(14, "enabled", "enable is set, and its client is there"),
    bit(15, "reset_ack", "reset was carried out; falls after reset has fallen"),
];

/// The bits of `control`.
pub(crate) mod control {
    #![allow(missing_docs, reason = "each is a row of `CONTROL_BITS`, which says what it means")]
    pub(crate) const ENABLE: u16 = 1 << 0;
    pub(crate) const TRIGGER: u16 = 1 << 1;
    pub(crate) const RESULT_ACK: u16 = 1 << 2;
    pub(crate) const RECIPE_CHANGE: u16 = 1 << 3;
    pub(crate) const RESET: u16 = 1 << 4;
    /// All that there are.
    pub(crate) const ALL: u16 = ENABLE | TRIGGER | RESULT_ACK | RECIPE_CHANGE | RESET;
}

/// What the bits of `control` mean.
pub(crate) const CONTROL_BITS: &[Bit] = &[
    bit(0, "enable", "this client commands; no other may write until it falls or the client leaves"),
    bit(1, "trigger", "rising: take a picture of the part that the user data name"),
    bit(2, "result_ack", "rising: the result was taken over; the next comes after it has fallen"),
    bit(3, "recipe_change", "rising: change to recipe_wanted"),
    bit(4, "reset", "rising: clear error and overrun, discard buffered results and parts under way"),
];

/// The station's registers, as one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(pub [u16; OUT_WORDS]);

impl Image {
    /// All zero.
    pub(crate) const fn new() -> Self {
        Self([0; OUT_WORDS])
    }

    /// Sets a word of one or two registers.
    pub(crate) fn set(&mut self, word: Out, value: u32) {
        let Register { address, words, .. } = *word.register();
        let at = (address - OUT_AT) as usize;
        if words == 2 {
            (self.0[at], self.0[at + 1]) = ((value >> 16) as u16, value as u16);
        } else {
            self.0[at] = value as u16;
        }
    }

    /// Sets the registers of a text; what is too long is cut.
    pub(crate) fn set_words(&mut self, word: Out, text: &[u16]) {
        let Register { address, words, .. } = *word.register();
        let at = (address - OUT_AT) as usize;
        let count = text.len().min(words as usize);
        self.0[at..at + count].copy_from_slice(&text[..count]);
    }

    /// A word of one or two registers.
    #[cfg(test)]
    pub(crate) fn get(&self, word: Out) -> u32 {
        let Register { address, words, .. } = *word.register();
        let at = (address - OUT_AT) as usize;
        match words {
            2 => (u32::from(self.0[at]) << 16) | u32::from(self.0[at + 1]),
            _ => self.0[at].into(),
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

/// A text as registers, padded with NUL; what is too long is cut.
pub(crate) fn words_of(text: &str, words: usize) -> Vec<u16> {
    let bytes: Vec<u8> = text.bytes().chain(std::iter::repeat(0)).take(2 * words).collect();
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

/// The text in registers: up to the first NUL, without the spaces around it. `None`: it holds other characters than
/// printable ASCII.
pub(crate) fn text_of(words: &[u16]) -> Option<String> {
    let bytes = words.iter().flat_map(|word| word.to_be_bytes()).take_while(|byte| *byte != 0);
    let bytes: Vec<u8> = bytes.collect();
    let printable = bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    printable.then(|| String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_gap_and_no_overlap_and_is_as_long_as_the_image() {
        for (registers, at, words) in [(OUTPUTS, OUT_AT, OUT_WORDS), (INPUTS, IN_AT, IN_WORDS)] {
            let mut next = at;
            for register in registers {
                assert_eq!(register.address, next, "{}", register.name);
                let needs = match register.kind {
                    Kind::U16 | Kind::Bits => 1,
                    Kind::U32 => 2,
                    Kind::Ascii => register.words,
                };
                assert_eq!(register.words, needs, "{}", register.name);
                next += register.words;
            }
            assert_eq!(usize::from(next - at), words);
            assert!(words <= 121, "one frame reads or writes all of it");
        }
        assert_eq!(Out::ExpectedEcho as usize + 1, OUTPUTS.len());
        assert_eq!(Out::ExpectedEcho.register().name, "expected_echo");
        assert_eq!(Out::Latency.register().name, "latency");
        let at = |name: &str| INPUTS.iter().find(|r| r.name == name).unwrap().address - IN_AT;
        assert_eq!(
            ["control", "recipe_wanted", "part_id", "lot", "expected"].map(|name| usize::from(at(name))),
            [CONTROL, RECIPE_WANTED, PART_ID, LOT, EXPECTED]
        );
    }

    #[test]
    fn every_bit_has_its_row() {
        assert_eq!(STATUS_BITS.len(), 16);
        for (at, bit) in STATUS_BITS.iter().chain(CONTROL_BITS).enumerate() {
            assert_eq!(usize::from(bit.bit), at % 16, "{}", bit.name);
        }
        assert_eq!(STATUS_BITS[4].name, "result_valid");
        assert_eq!(status::RESULT_VALID, 1 << STATUS_BITS[4].bit);
        assert_eq!(status::RESET_ACK, 1 << STATUS_BITS[15].bit);
        assert_eq!(control::ALL.count_ones() as usize, CONTROL_BITS.len());
        assert_eq!(control::RESET, 1 << CONTROL_BITS[4].bit);
    }

    #[test]
    fn texts_and_long_numbers_lie_high_first() {
        let mut image = Image::new();
        image.set(Out::Latency, 0x0001_0002);
        assert_eq!((image.0[22], image.0[23], image.get(Out::Latency)), (1, 2, 65_538));
        image.set_words(Out::PartIdEcho, &words_of("AB7", PART_WORDS));
        assert_eq!(&image.0[37..40], [0x4142, 0x3700, 0]);
        assert_eq!(text_of(&words_of("AB7", 8)).as_deref(), Some("AB7"));
        assert_eq!(text_of(&words_of("AB7     ", 8)).as_deref(), Some("AB7"));
        assert_eq!(text_of(&words_of("AB\0rest of the last", 8)).as_deref(), Some("AB"));
        assert_eq!(text_of(&words_of("A\u{7}", 8)), None);
        assert_eq!(text_of(&[0xfffe]), None);
        assert_eq!(words_of("0123456789", 2), words_of("0123", 2), "what is too long is cut");
    }
}
