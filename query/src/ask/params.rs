//! A question written as URL parameters.

use super::{
    Ask, AskError, Compare, Draft, Filter, Order, PARAMETERS, Step, parse_duration_ms, parse_moment,
};

impl Ask {
    /// Reads decoded URL parameters. `metrics`, `group_by`, `filter` and `order_by` may repeat.
    ///
    /// # Errors
    ///
    /// [`AskError`] naming the parameter that is unknown, given twice, or wrong.
    pub fn from_params<'a>(
        params: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, AskError> {
        let mut draft = Draft::default();
        for (name, value) in params {
            draft.take(name, value)?;
        }
        draft.finish()
    }
}

impl Draft {
    /// Takes one parameter as text.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<(), AskError> {
        match name {
            "metrics" => self.metrics.extend(comma_separated(value)),
            "group_by" => self.group_by.extend(comma_separated(value)),
            "filter" => self.filters.push(Filter::parse(value)?),
            "order_by" => {
                self.order_by.extend(comma_separated(value).map(|text| Order::parse(&text)));
            }
            "from" => once(name, &mut self.from, parse_moment(name, value)?)?,
            "to" => once(name, &mut self.to, parse_moment(name, value)?)?,
            "last" => once(name, &mut self.last_ms, parse_duration_ms(name, value)?)?,
            "granularity" => once(name, &mut self.granularity, Step::parse(value)?)?,
            "window" => once(name, &mut self.window_ms, parse_duration_ms(name, value)?)?,
            "compare" => once(name, &mut self.compare, Compare::parse(value)?)?,
            "limit" => {
                let limit =
                    value.parse().map_err(|_| AskError::bad(name, "is not a whole number"))?;
                once(name, &mut self.limit, limit)?;
            }
            _ => return Err(AskError::unknown_parameter(name, &PARAMETERS)),
        }
        // The lists are checked at the end; this bounds what a hostile URL can pile up.
        let piled =
            self.metrics.len() + self.group_by.len() + self.filters.len() + self.order_by.len();
        if piled > 10_000 {
            return Err(AskError::bad(name, "repeats too often"));
        }
        Ok(())
    }
}

pub(super) fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), AskError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_before) => Err(AskError::bad(name, "is given twice")),
    }
}

pub(super) fn comma_separated(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned)
}
