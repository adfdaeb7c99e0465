//! Random marking strings over `A-Z 0-9 space - / . :`.

use crate::simulator::geom::{Rand, pick};
use rand::Rng;

fn letters(r: &mut Rand, n: usize) -> String {
    (0..n).map(|_| r.gen_range(b'A'..=b'Z') as char).collect()
}

fn digits(r: &mut Rand, n: usize) -> String {
    (0..n).map(|_| r.gen_range(b'0'..=b'9') as char).collect()
}

fn alnum(r: &mut Rand, n: usize) -> String {
    const SET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    (0..n).map(|_| pick(r, SET) as char).collect()
}

/// A part or serial number such as "A7X-00913".
pub(crate) fn part_number(r: &mut Rand) -> String {
    match r.gen_range(0..4) {
        0 => format!("{}-{}", alnum(r, 3), digits(r, 5)),
        1 => format!("SN{}-{}{}", digits(r, 4), letters(r, 1), digits(r, 1)),
        2 => format!("{}{}.{}", letters(r, 2), digits(r, 4), digits(r, 2)),
        _ => format!("{} {}/{}", letters(r, 3), digits(r, 3), digits(r, 2)),
    }
}

/// Any marking string, 4 to 14 characters.
pub(crate) fn any(r: &mut Rand) -> String {
    let (y, m, d) = (r.gen_range(22..35), r.gen_range(1..13), r.gen_range(1..29));
    match r.gen_range(0..16) {
        0..=2 => part_number(r),
        3 => format!("LOT {y:02}-{m:02}{d:02}"),
        4 => format!("EXP 20{y}/{m:02}"),
        5 => format!("MFG {d:02}.{m:02}.{y}"),
        6 => format!("20{y}-{m:02}-{d:02}"),
        7 => format!("{:02}:{:02} {}", r.gen_range(0..24), r.gen_range(0..60), alnum(r, 4)),
        8 => format!("{}.{}KW IP{}", r.gen_range(1..60), r.gen_range(0..10), pick(r, &[54, 55, 65, 67, 68])),
        9 => format!("MADE IN {}", pick(r, &["DE", "FR", "IT", "JP", "US", "PL", "CZ", "KR", "SE", "CH"])),
        10 => format!("{}V {}A", pick(r, &[12, 24, 48, 110, 230, 400]), r.gen_range(1..64)),
        11 => format!("S/N {}", alnum(r, 6)),
        12 => format!("REV {}.{}", letters(r, 1), r.gen_range(0..20)),
        _ => {
            let n = r.gen_range(4..13);
            alnum(r, n)
        }
    }
}
