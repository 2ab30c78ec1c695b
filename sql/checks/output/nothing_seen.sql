-- severity: error
-- reads: recommendations, source_rows
-- No user is recommended an item of their own source rows, filtered ones included.
select recommendations.user_id, recommendations.item_id
from recommendations
semi join source_rows using (user_id, item_id)
