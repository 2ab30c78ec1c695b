-- severity: error
-- reads: recommendations, users
-- Every user with recommendations is in the table users.
select distinct user_id from recommendations anti join users using (user_id)
