//! Lines that the checks once refused or misread, each with the standard's word about it.
//!
//! GS: General Specifications, their sections and figures; SD: Barcode Syntax Dictionary.

use super::*;

#[derive(Debug, PartialEq)]
enum Word {
    Good,
    Broken,
    CannotTell,
}
use Word::{Broken, CannotTell, Good};

fn word(kind: CheckKind, line: &str) -> Word {
    let line = line.replace("<GS>", "\u{1d}");
    match check(&line, kind, 2026) {
        Ok(()) => Good,
        Err(Objection::Broken(_)) => Broken,
        Err(Objection::Unknown(_)) => CannotTell,
    }
}

fn judge(kind: CheckKind, cases: &[(&str, Word, &str)]) {
    for (line, wanted, why) in cases {
        assert_eq!(word(kind, line), *wanted, "{line}: {why}");
    }
}

#[test]
fn element_strings() {
    judge(
        CheckKind::Gs1,
        &[
            ("(01)09501101530003(17)260200(10)A1", Good, "GS 3.4.7: DD = 00 is the last day of the month"),
            ("(17)240200", Good, "the last day of February 2024"),
            ("(17)250230", Broken, "February has no 30th"),
            ("(17)761231", Good, "GS 7.12: 50 years ahead is 2076"),
            ("(17)770101", Good, "GS 7.12: 51 years ahead is 1977"),
            ("(11)260001", Broken, "SD yymmd0: there is no month 00"),
            ("0109501101530003172602001012A<GS>21S1", Good, "GS 7.8: a separator ends a variable value"),
            ("0109501101530003101A21S1", Good, "without a separator all of it is the batch"),
            ("]C10109501101530003", Good, "GS figure 5.1.2-2: the symbology identifier of GS1-128"),
            ("]d20109501101530003", Good, "GS figure 5.1.2-2: that of GS1 DataMatrix"),
            ("<GS>0109501101530003", Good, "the FNC1 in first position marks the symbol and is no data"),
            ("(01) 09501101530003 (10) AB", Good, "spaces around brackets are no data"),
            ("(01)0950110153 0003", Good, "spaces that group digits are no data"),
            ("(10)ABC(DEF)(21)X", Good, "GS figure 7.11-1: brackets belong to set 82"),
            ("(10)A(21)B", Good, "two elements"),
            ("(8004)4012345ABC", Good, "SD: X..30 that begins with a company prefix"),
            ("(8003)04012345123456SER1", Good, "SD: 0, N13 with check digit, X..16"),
            ("(8010)4012345PART-1(8011)12", Good, "SD: set 39, and digits without a leading 0"),
            ("(253)4012345000009", Good, "SD: N13 with check digit, X..17 or nothing"),
            ("(7003)2612312359", Good, "SD: YYMMDDHHMM"),
            ("(7006)260131", Good, "SD: YYMMDD"),
            ("(710)12345", Good, "SD: X..20"),
            ("(8006)095011015300030102", Good, "SD: N14 with check digit, piece 1 of 2"),
            ("(8013)1987654Ad4X4bL5ttr2310c2K", Good, "GS 7.9.5: the example of the check character pair"),
            ("(8020)REF1", Good, "SD: X..25"),
            ("(3922)12345", Good, "SD: N..15, two decimals"),
            ("(3102)000100", Good, "SD: N6, two decimals"),
            ("(421)276ABC", Good, "SD: a country and X..9"),
            ("(422)276", Good, "SD: a country"),
            ("(426)276", Good, "SD: a country"),
            ("(7001)1234567890123", Good, "SD: N13"),
            ("(7240)PROT1", Good, "SD: X..20"),
            ("(255)4012345000009", Good, "SD: N13 with check digit, N..12 or nothing"),
            ("(423)276276", Good, "SD: one to five countries"),
            ("(4300)ACME", Good, "SD: X..35, percent-encoded"),
            ("(03)09501101530003", Good, "SD: the GTIN of made-to-order items"),
            ("(8200)HTTP://X", Good, "SD: X..70"),
            ("(8001)12345678901234", Broken, "SD winding: the direction is 0, 1 or 9, not 3"),
            ("(8001)12345678901204", Good, "the same with a direction"),
            ("(23)1", CannotTell, "an identifier that is not assigned today"),
            ("(250)S2", Good, "SD: X..30"),
            ("(254)X", Good, "SD: X..20"),
            ("(01)09501101530003(01)09501101530003", Good, "GS 4.15: twice with the same value"),
            ("(01)09501101530003(21)", Broken, "a value has at least one character"),
            (
                "https://id.gs1.org/01/09501101530003/10/ABC",
                CannotTell,
                "a Digital Link is no element string",
            ),
            ("(01)9501101530003", Broken, "SD: N14, a GTIN-13 gets a 0 in front"),
            ("(00)106141412345678908", Good, "SD: N18 with check digit"),
            ("(240)ABC#1", Broken, "GS figure 7.11-1: # is not in set 82"),
            ("(10)ABC DEF", Broken, "GS figure 7.11-1: the space is not in set 82"),
            ("(10)ÄBC", Broken, "GS figure 7.11-1: Ä is not in set 82"),
            ("（01）09501101530003", CannotTell, "brackets of another script look the same on the part"),
            ("(01)09501101530003(17)26O200", Broken, "a letter is no digit"),
            ("(8008)26013112", Good, "SD: YYMMDDHH"),
            ("(8008)260200", Broken, "SD: the hour must be there"),
            ("(8008)2602001200", Broken, "SD yymmdd: an hour needs its day"),
        ],
    );
}

#[test]
fn numbers() {
    judge(
        CheckKind::Gtin,
        &[
            ("4006381333931", Good, "GTIN-13"),
            ("4 006381 333931", Good, "as it stands under the bar code"),
            ("0 12345 67890 5", Good, "GTIN-12 as it stands under the bar code"),
            ("012345678905", Good, "GTIN-12"),
            ("00000000", CannotTell, "keeps the check digit, but is nobody's number"),
            ("04006381333931", Good, "GTIN-14"),
            ("978-3-16-148410-0", Good, "an ISBN is a GTIN-13"),
            ("9783161484100", Good, "the same without hyphens"),
            ("96385074", Good, "GTIN-8"),
            ("01234565", Good, "UPC-E"),
        ],
    );
    judge(
        CheckKind::Luhn,
        &[
            ("4992 7398 716", Good, "in groups"),
            ("490154203237518", Good, "an IMEI"),
            ("0", Broken, "a check digit checks something"),
            ("00", Good, "0 is the check digit of 0"),
        ],
    );
    judge(
        CheckKind::Mod3736,
        &[
            ("A12425GABC1234002M", Good, "a GRid"),
            ("a12425gabc1234002m", Broken, "ISO 7064: its alphabet has capital letters"),
        ],
    );
    judge(
        CheckKind::Vin,
        &[
            ("WVWZZZ1JZXW000001", Good, "Europe has no check digit"),
            ("WVGZZZ5NZEW069297", Good, "Europe has no check digit"),
            ("1M8GDM9AXKP042788", Good, "49 CFR 565.15"),
            ("11111111111111111", Good, "49 CFR 565.15"),
            ("1m8gdm9axkp042788", Broken, "ISO 3779: capital letters"),
        ],
    );
}
