-- severity: warn
-- reads: drift
-- Users, items and activity differ from the live tables as much as they did in the last published nights.
select measure, value, usual_low, usual_high from drift
where unusual
