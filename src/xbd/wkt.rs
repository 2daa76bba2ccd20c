//! Polygons from well-known text: POLYGON and MULTIPOLYGON, with holes, EMPTY, Z, M and ZM.
//!
//! Not the `wkt` crate (0.14): it takes text after the geometry for granted (half a damaged string would give half a mask),
//! its errors do not say which value was wrong, and nested GEOMETRYCOLLECTIONs overflow its stack, which aborts the process.

/// Coordinates beyond this (in pixels, either sign) are taken for damage, not for a building at the edge.
pub const MAX_COORDINATE: f64 = (1u64 << 30) as f64;

/// One closed ring: (x, y) in pixels. The closing point may be missing; the last point is always joined to the first.
pub type Ring = Vec<[f64; 2]>;

/// An outer ring and its holes. What is inside is decided even-odd over all rings, as OpenCV's `fillPoly` does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Polygon {
    /// The outer ring, then the holes; never empty.
    pub rings: Vec<Ring>,
}

/// Parses `text`. An EMPTY geometry has no polygons. The error says what was found and what was expected.
pub fn parse(text: &str) -> Result<Vec<Polygon>, String> {
    let mut parser = Parser { text, at: 0, coordinates: Coordinates::Untagged };
    let polygons = parser.geometry()?;
    match parser.peek() {
        None => Ok(polygons),
        Some(_) => Err(parser.unexpected("the end of the text")),
    }
}

/// How many numbers make one position.
#[derive(Clone, Copy)]
enum Coordinates {
    /// No Z or M in the text: two, but writers that leave the tag out give three or four.
    Untagged,
    /// As many as the tag says.
    Exactly(usize),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    coordinates: Coordinates,
}

impl Parser<'_> {
    fn geometry(&mut self) -> Result<Vec<Polygon>, String> {
        let start = self.at;
        let tag = self.token().to_ascii_uppercase();
        let (multi, suffix) = if let Some(suffix) = tag.strip_prefix("MULTIPOLYGON") {
            (true, suffix)
        } else if let Some(suffix) = tag.strip_prefix("POLYGON") {
            (false, suffix)
        } else {
            self.at = start;
            return Err(self.unexpected("POLYGON or MULTIPOLYGON"));
        };
        if !self.dimension(suffix) {
            self.at = start;
            return Err(self.unexpected("POLYGON or MULTIPOLYGON"));
        }
        if suffix.is_empty() {
            let before = self.at;
            let word = self.token().to_ascii_uppercase();
            if word.is_empty() || !self.dimension(&word) {
                self.at = before;
            }
        }
        if multi {
            Ok(self.list(|parser| parser.list(Self::ring))?.into_iter().filter_map(polygon).collect())
        } else {
            Ok(polygon(self.list(Self::ring)?).into_iter().collect())
        }
    }

    /// Takes "Z", "M", "ZM" or nothing; false for anything else.
    fn dimension(&mut self, tag: &str) -> bool {
        self.coordinates = match tag {
            "" => return true,
            "Z" | "M" => Coordinates::Exactly(3),
            "ZM" => Coordinates::Exactly(4),
            _ => return false,
        };
        true
    }

    /// `EMPTY`, or `item`s between parentheses with commas.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        if self.peek() != Some(b'(') {
            let before = self.at;
            if self.token().eq_ignore_ascii_case("EMPTY") {
                return Ok(items);
            }
            self.at = before;
            return Err(self.unexpected("`(` or EMPTY"));
        }
        self.at += 1;
        loop {
            items.push(item(self)?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b')') => {
                    self.at += 1;
                    return Ok(items);
                }
                _ => return Err(self.unexpected("`,` or `)`")),
            }
        }
    }

    fn ring(&mut self) -> Result<Ring, String> {
        let start = self.at;
        let ring = self.list(Self::position)?;
        let closed = ring.len() > 1 && ring.first() == ring.last();
        let points = ring.len() - usize::from(closed);
        if points == 0 || points >= 3 {
            Ok(ring)
        } else {
            Err(format!("got a ring of {points} points at byte {start}, expected 3 or more"))
        }
    }

    fn position(&mut self) -> Result<[f64; 2], String> {
        let position = [self.coordinate()?, self.coordinate()?];
        let (least, most) = match self.coordinates {
            Coordinates::Untagged => (2, 4),
            Coordinates::Exactly(count) => (count, count),
        };
        for count in 2..most {
            if count >= least && self.peek().is_none_or(is_delimiter) {
                break;
            }
            self.number()?;
        }
        Ok(position)
    }

    /// An x or y that can be drawn.
    fn coordinate(&mut self) -> Result<f64, String> {
        self.peek();
        let start = self.at;
        let value = self.number()?;
        if value.abs() <= MAX_COORDINATE {
            Ok(value)
        } else {
            self.at = start;
            Err(self.unexpected(&format!("a finite coordinate of at most {MAX_COORDINATE} pixels")))
        }
    }

    fn number(&mut self) -> Result<f64, String> {
        self.peek();
        let start = self.at;
        match self.token().parse() {
            Ok(value) => Ok(value),
            Err(_) => {
                self.at = start;
                Err(self.unexpected("a number"))
            }
        }
    }

    /// The next byte that is not white space, not taken.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes everything up to white space or punctuation; empty where there is no word.
    fn token(&mut self) -> &str {
        self.peek();
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        self.at += rest.iter().take_while(|&&byte| !is_delimiter(byte)).count();
        // Delimiters are ASCII, so both ends lie between characters.
        &self.text[start..self.at]
    }

    fn unexpected(&mut self, expected: &str) -> String {
        let got = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(byte) if is_delimiter(byte) => format!("`{}`", char::from(byte)),
            Some(_) => {
                let at = self.at;
                let token = self.token();
                let shown: String = token.chars().take(40).collect();
                let dots = if shown.len() < token.len() { "..." } else { "" };
                self.at = at;
                format!("`{shown}{dots}`")
            }
        };
        format!("got {got} at byte {}, expected {expected}", self.at)
    }
}

fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'(' | b')' | b',')
}

/// EMPTY rings and polygons without rings have no pixels and are left out.
fn polygon(mut rings: Vec<Ring>) -> Option<Polygon> {
    rings.retain(|ring| !ring.is_empty());
    (!rings.is_empty()).then_some(Polygon { rings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn square() -> Ring {
        vec![[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [0.0, 0.0]]
    }

    #[test]
    fn every_legal_form_gives_the_same_square() {
        for text in [
            "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0))",
            "polygon((0 0,4 0,4 4,0 4,0 0))",
            " POLYGON\t( ( 0.0 -0 , 4e0 0 , +4 4.,\n0 40e-1, .0 0 ) ) ",
            "POLYGON Z ((0 0 1, 4 0 1, 4 4 1, 0 4 1, 0 0 nan))",
            "POLYGONM ((0 0 1, 4 0 1, 4 4 1, 0 4 1, 0 0 1))",
            "POLYGON ZM ((0 0 1 2, 4 0 1 2, 4 4 1 2, 0 4 1 2, 0 0 1 2))",
            "POLYGON ((0 0 1, 4 0 1, 4 4 1, 0 4 1, 0 0 1))",
            "MULTIPOLYGON (((0 0, 4 0, 4 4, 0 4, 0 0)))",
            "MULTIPOLYGON (EMPTY, ((0 0, 4 0, 4 4, 0 4, 0 0), EMPTY))",
        ] {
            assert_eq!(parse(text), Ok(vec![Polygon { rings: vec![square()] }]), "{text}");
        }
    }

    #[test]
    fn empty_geometries_have_no_polygons() {
        for text in ["POLYGON EMPTY", "MULTIPOLYGON EMPTY", "POLYGON Z EMPTY", "POLYGON (EMPTY)", "multipolygon(empty)"]
        {
            assert_eq!(parse(text), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn holes_parts_and_unclosed_rings_are_kept() {
        let polygons =
            parse("MULTIPOLYGON (((0 0, 9 0, 9 9), (1 1, 2 1, 2 2, 1 1)), ((20 20, 30 20, 30 30)))").unwrap();
        assert_eq!(polygons.iter().map(|polygon| polygon.rings.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(polygons[0].rings[0].len(), 3);
    }

    #[test]
    fn errors_say_what_was_found() {
        for (text, message) in [
            ("", "got the end of the text at byte 0, expected POLYGON or MULTIPOLYGON"),
            ("LINESTRING (0 0, 1 1)", "got `LINESTRING` at byte 0, expected POLYGON or MULTIPOLYGON"),
            ("POLYGONX ((0 0, 1 1, 2 0))", "got `POLYGONX` at byte 0, expected POLYGON or MULTIPOLYGON"),
            ("POLYGON Q ((0 0, 1 1, 2 0))", "got `Q` at byte 8, expected `(` or EMPTY"),
            (
                "POLYGON ((nan 0, 1 1, 2 0))",
                "got `nan` at byte 10, expected a finite coordinate of at most 1073741824 pixels",
            ),
            (
                "POLYGON ((0 -inf, 1 1, 2 0))",
                "got `-inf` at byte 12, expected a finite coordinate of at most 1073741824 pixels",
            ),
            (
                "POLYGON ((0 0, 1e10 1, 2 0))",
                "got `1e10` at byte 15, expected a finite coordinate of at most 1073741824 pixels",
            ),
            ("POLYGON ((0 0, 1 x, 2 0))", "got `x` at byte 17, expected a number"),
            ("POLYGON ((0 0, 1, 2 0))", "got `,` at byte 16, expected a number"),
            ("POLYGON ((0 0 1 1 1, 1 1, 2 0))", "got `1` at byte 18, expected `,` or `)`"),
            ("POLYGON Z ((0 0, 1 1, 2 0))", "got `,` at byte 15, expected a number"),
            ("POLYGON ((0 0, 1 1, 2 0)", "got the end of the text at byte 24, expected `,` or `)`"),
            ("POLYGON ((0 0, 1 1, 2 0)) (", "got `(` at byte 26, expected the end of the text"),
            ("POLYGON ((0 0, 1 1, 0 0))", "got a ring of 2 points at byte 9, expected 3 or more"),
            ("POLYGON ((5 5))", "got a ring of 1 points at byte 9, expected 3 or more"),
            (
                "GEOMETRYCOLLECTION (POINT (0 0))",
                "got `GEOMETRYCOLLECTION` at byte 0, expected POLYGON or MULTIPOLYGON",
            ),
            ("PÖLYGON", "got `PÖLYGON` at byte 0, expected POLYGON or MULTIPOLYGON"),
        ] {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_long_token_is_shown_in_part() {
        let message = parse(&"x".repeat(1 << 20)).unwrap_err();
        assert!(message.len() < 120, "{message}");
    }

    fn write(polygons: &[Polygon]) -> String {
        let ring = |ring: &Ring| {
            let points: Vec<_> = ring.iter().map(|[x, y]| format!("{x} {y}")).collect();
            format!("({})", points.join(", "))
        };
        let parts: Vec<_> = polygons
            .iter()
            .map(|polygon| format!("({})", polygon.rings.iter().map(ring).collect::<Vec<_>>().join(", ")))
            .collect();
        format!("MULTIPOLYGON ({})", parts.join(", "))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            polygons in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(prop::array::uniform2(-1e9..1e9f64), 3..9), 1..4)
                    .prop_map(|rings| Polygon { rings }),
                1..4,
            )
        ) {
            // A first point equal to the last counts once, which can leave too few; draws never hit that.
            prop_assert_eq!(parse(&write(&polygons)), Ok(polygons));
        }

        #[test]
        fn no_text_panics(text in "[POLYGNMUTIZEmpty0-9 .,()e+-]{0,80}|\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
