//! Plots as SVG, drawn so that they can be read in a README, on light and on dark pages.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 52.0;

/// Colours that people who do not see all colours can tell apart, in the order of the lines.
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#e69f00", "#777777", "#009e73", "#cc79a7",
];

/// A line of a plot.
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Drawn in dashes, as limits are.
    pub is_dashed: bool,
}

/// An axis.
pub struct Axis<'a> {
    /// What it says.
    pub title: &'a str,
    /// Where it has marks: the value, and its name.
    pub marks: Vec<(f64, String)>,
    /// Whether equal distances are equal factors.
    pub is_logarithmic: bool,
}

impl Axis<'_> {
    fn bounds(&self) -> (f64, f64) {
        let values = self.marks.iter().map(|(value, _)| self.place(*value));
        values.fold((f64::MAX, f64::MIN), |(min, max), value| {
            (min.min(value), max.max(value))
        })
    }

    fn place(&self, value: f64) -> f64 {
        if self.is_logarithmic {
            value.max(1e-9).log10()
        } else {
            value
        }
    }

    /// From 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let (min, max) = self.bounds();
        ((self.place(value) - min) / (max - min)).clamp(0.0, 1.0)
    }
}

/// The plot as the text of an SVG file.
pub fn draw(title: &str, x: &Axis<'_>, y: &Axis<'_>, lines: &[Line]) -> String {
    let at_x = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
    let at_y = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    );
    let mut put = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, name) in &y.marks {
        let at = at_y(*value);
        put(format!(
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#dddddd\"/>"
        ));
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT - 6.0,
            at + 4.0
        ));
    }
    for (value, name) in &x.marks {
        let at = at_x(*value);
        put(format!(
            "<path d=\"M{at:.1} {bottom}v5\" stroke=\"#000000\"/>"
        ));
        put(format!(
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            bottom + 19.0
        ));
    }
    put(format!(
        "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" stroke=\"#000000\" fill=\"none\"/>"
    ));
    let middle = (LEFT + right) / 2.0;
    put(format!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 12.0,
        x.title
    ));
    let middle = (TOP + bottom) / 2.0;
    put(format!(
        "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        y.title
    ));
    let mut legend = LEFT;
    let coloured = lines.iter().zip(COLOURS.iter().cycle());
    for (line, colour) in coloured.filter(|(line, _)| !line.points.is_empty()) {
        let dashes = if line.is_dashed {
            " stroke-dasharray=\"6 4\""
        } else {
            ""
        };
        let mut path = String::new();
        for (place, (to_x, to_y)) in line.points.iter().enumerate() {
            let order = if place == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{order}{:.1} {:.1}", at_x(*to_x), at_y(*to_y));
        }
        put(format!(
            "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"2.5\" fill=\"none\"{dashes}/>"
        ));
        for (to_x, to_y) in &line.points {
            put(format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                at_x(*to_x),
                at_y(*to_y)
            ));
        }
        put(format!(
            "<path d=\"M{legend:.0} 44h22\" stroke=\"{colour}\" stroke-width=\"2.5\"{dashes}/>"
        ));
        put(format!(
            "<text x=\"{:.0}\" y=\"48\">{}</text>",
            legend + 27.0,
            line.name
        ));
        legend += 45.0 + 6.7 * line.name.len() as f64;
    }
    put("</svg>".to_owned());
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_between_two_marks_is_drawn_between_them() {
        let axis = Axis {
            title: "peers",
            marks: vec![(1.0, "1".to_owned()), (100.0, "100".to_owned())],
            is_logarithmic: true,
        };
        assert_eq!(axis.share(10.0), 0.5);
        let line = Line {
            name: "ours".to_owned(),
            points: vec![(1.0, 10.0), (100.0, 10.0)],
            is_dashed: false,
        };
        let svg = draw("memory", &axis, &axis, &[line]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("M78.0 209.0L716.0 209.0"), "{svg}");
    }
}
