-- severity: error
-- reads: recommendations, masking_rows
-- No user is recommended an item of their own source rows, filtered ones included; of event types, of those that mask;
-- with seen = "allow" only of those of the last hide_days.
select recommendations.user_id, recommendations.item_id
from recommendations
semi join masking_rows using (user_id, item_id)
