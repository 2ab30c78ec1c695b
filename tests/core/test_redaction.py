"""Passwords in URLs of databases are secrets, however they are written."""

from urllib.parse import quote

import pytest

from pipeline.core.redaction import masked, without_role, without_users

PASSWORDS = ["hunter2-hunter2", "p@ss/w:rd!", "with space", "100%41secret", "é€secret"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("form", [
    "postgresql://user:{quoted}@host:5432/db?sslmode=require", "postgresql://user:{plain}@host/db",
    "postgresql://host/db?user=u&password={quoted}", "host=h user=u password='{plain}' dbname=db",
])  # fmt: skip
def test_a_password_of_a_database_is_masked_in_any_form(password: str, form: str):
    value = form.format(plain=password, quoted=quote(password, safe=""))
    for spelt in (password, quote(password, safe=""), value):
        text = masked(f"can't use {spelt!s} there", {"SHOP_DB_URL": value})
        assert password not in text and quote(password, safe="") not in text, text


def test_keys_of_a_bucket_are_masked():
    environ = {"AWS_ACCESS_KEY_ID": "AKIA12345678", "AWS_SECRET_ACCESS_KEY": "abcdefgh", "HOME_PAGE": "https://x.org/a"}
    assert masked("AKIA12345678 abcdefgh https://x.org/a", environ) == "*** *** https://x.org/a"


def test_urls_of_settings_lose_their_users():
    query = "select 'http://'||'a@b.c' from t where mail = 'x@y.z'"
    tree = {"source": {"url": "postgresql://reader@db.example.com/shop?user=reader&sslmode=require", "query": query},
            "many": ["postgresql://reader:pw@h/d?sslmode=require&user=reader", 1.5, None, "reader@h"]}  # fmt: skip
    assert without_users(tree) == {
        "source": {"url": "postgresql://db.example.com/shop?sslmode=require", "query": query},
        "many": ["postgresql://h/d?sslmode=require", 1.5, None, "reader@h"],
    }


def test_a_server_s_message_loses_the_user():
    message = 'FATAL: password authentication failed for user "reader"; table "reader" is another one'
    assert without_role(message) == (
        'FATAL: password authentication failed for user "***"; table "reader" is another one'
    )
