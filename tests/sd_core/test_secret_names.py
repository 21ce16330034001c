"""Forms of real signers and CDNs: their signature goes, and what is harmless stays readable."""

import time
from urllib.parse import quote

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.redact import redact_text_column, redact_url_column
from sd_core.redact import redact_text, redact_url

HEX = "0f3a9c5be1d24786a0b1c2d3e4f50617"  # 32 digits, as of an md5
HEX64 = HEX + HEX[::-1]
BASE64 = "Zr4uQm9xW1tT7aKcYp0LdEfGhIjK"  # 28 characters, as of a sha1
B64_43 = "hV3xJk2LmN9pQrStUvWxYz0aBcDeFgHiJkLmNoPqRs1"
WORD = "hunter2"

SIGNED = {
    "S3 v2": ("https://b.s3.example/a.jpg?AWSAccessKeyId={}&Expires=1700000000&Signature={}", WORD),
    "S3 v4": (
        "https://b.s3.example/a.jpg?X-Amz-Algorithm={}&X-Amz-Credential={}%2F20240101%2Fs3"
        "&X-Amz-Date={}&X-Amz-Expires={}&X-Amz-Security-Token={}&X-Amz-Signature={}",
        HEX64,
    ),
    "GCS v2": ("https://g.example/b/a.jpg?GoogleAccessId={}&Expires=1&Signature={}%3D", BASE64),
    "GCS v4": ("https://g.example/b/a.jpg?X-Goog-Credential={}&X-Goog-Signature={}", HEX64),
    "Google Maps": ("https://m.example/staticmap?center=0,0&key={}&signature={}", BASE64),
    "Drive": ("https://d.example/uc?id=1a2b&resourcekey={}", BASE64),
    "Firebase": ("https://f.example/o/a.jpg?alt=media&token={}", HEX),
    "Azure SAS": (
        "https://a.example/c/a.jpg?sv=2022-11-02&ss=b&srt=o&sp=r&se=2024-01-01T00:00:00Z"
        "&st=2023-01-01T00:00:00Z&spr=https&sig={}%3D",
        B64_43,
    ),
    "SharePoint": ("https://s.example/download.aspx?UniqueId=1&tempauth={}", BASE64),
    "OneDrive": ("https://o.example/download?resid=1&authkey={}", BASE64),
    "CloudFront": ("https://d1.example/a.jpg?Expires=1&Signature={}__&Key-Pair-Id={}", BASE64),
    "CloudFront policy": ("https://d1.example/a.jpg?Policy={}_&Signature={}&Key-Pair-Id={}", WORD),
    "Akamai query": ("https://a.example/a.jpg?hdnts=st=1~exp=2~acl=/*~hmac={}", HEX),
    "Akamai token": ("https://a.example/a.jpg?__token__=exp=2~acl=/*~hmac={}", HEX),
    "Akamai path": ("https://a.example/exp=2~acl=/x*~hmac={}/a.jpg", HEX),
    "Akamai gda": ("https://a.example/a.jpg?__gda__=1700000000_{}", HEX),
    "Facebook": (
        "https://scontent.example/v/a.jpg?stp=dst-jpg_s1080x1080_tt6&_nc_cat=1&oh=00_{}&oe=65A0B1C2",
        BASE64,
    ),
    "Facebook, before": ("https://scontent.example/v/a.jpg?oh={}&oe=5A0B1C2D", HEX),
    "Facebook proxy": ("https://external.example/safe_image.php?w=1&_nc_hash={}", BASE64),
    "Instagram": ("https://i.example/v/a.jpg?ig_cache_key={}&oh=00_{}&oe=65A0B1C2", BASE64),
    "VK": ("https://sun.example/impg/a.jpg?size=720x1080&quality=95&sign={}&type=album", HEX),
    "VK video": ("https://vk.example/a.jpg?expires=1700000000&sig={}", WORD),
    "Odnoklassniki": ("https://i.example/image?id=1&t=3&tkn=x&sig={}", WORD),
    "Yandex disk": ("https://d.example/preview/a?uid=0&hash={}&tknv=v2", BASE64),
    "Mail.ru": ("https://m.example/a.jpg?e=1700000000&st={}", BASE64),
    "Alibaba OSS": ("https://o.example/a.jpg?OSSAccessKeyId={}&Expires=1&Signature={}", BASE64),
    "Alibaba OSS v4": ("https://o.example/a.jpg?x-oss-credential={}&x-oss-signature={}", WORD),
    "Alibaba STS": ("https://o.example/a.jpg?security-token={}", BASE64),
    "Alibaba CDN A": ("https://c.example/a.jpg?auth_key=1700000000-0-0-{}", HEX),
    "Tencent COS": (
        "https://c.example/a.jpg?q-sign-algorithm=sha1&q-ak={}&q-sign-time=1;2&q-signature={}",
        HEX,
    ),
    "Tencent COS, one value": (
        "https://c.example/a.jpg?sign=q-sign-algorithm%3Dsha1%26q-ak%3D{}%26q-signature%3D{}",
        WORD,
    ),
    "Tencent CDN D": ("https://c.example/a.jpg?sign={}&t=1700000000", HEX),
    "Tencent live": ("https://c.example/a.flv?txSecret={}&txTime=65A0B1C2", HEX),
    "QQ": ("https://q.example/a.jpg?vkey={}&rkey={}", BASE64),
    "Weixin": ("https://w.example/a.mp4?dis_k={}&dis_t=1700000000", HEX),
    "Weibo": ("https://w.example/a.jpg?Expires=1700000000&ssig={}&KID=unistore,video", "a1%2Bb2"),
    "Bilibili": ("https://b.example/a.m4s?deadline=1700000000&uparams=e,uipk&upsig={}", HEX),
    "Douyin": ("https://t.example/a.webp?x-expires=1700000000&x-signature={}%3D", BASE64),
    "Qiniu": ("https://q.example/a.jpg?e=1700000000&token={}:{}%3D", BASE64),
    "Baidu BOS": ("https://b.example/a.jpg?authorization=bce-auth-v1%2F{}%2F1%2F{}", HEX),
    "Baidu BOS token": ("https://b.example/a.jpg?x-bce-security-token={}", BASE64),
    "Baidu images": ("https://g.example/image_search/src=x&refer=y&sec=1700000000&t={}", HEX),
    "Baidu maps": ("https://b.example/staticimage/v2?ak={}&width=1", BASE64),
    "Huawei OBS": ("https://o.example/a.jpg?AccessKeyId={}&Expires=1&Signature={}", BASE64),
    "UpYun": ("https://u.example/a.jpg?_upt={}1700000000", "0f3a9c5b"),
    "Wangsu": ("https://w.example/a.jpg?wsSecret={}&wsTime=65A0B1C2", HEX),
    "KS3": ("https://k.example/a.jpg?KSSAccessKeyId={}&Expires=1&Signature={}", WORD),
    "Bunny": ("https://b.example/a.jpg?token={}&expires=1700000000", BASE64),
    "Bunny path": ("https://b.example/bcdn_token={}&expires=1&token_path=%2F/a.jpg", BASE64),
    "KeyCDN": ("https://k.example/a.jpg?token={}&expire=1700000000", BASE64),
    "CDN77": ("https://c.example/a.jpg?secure={}&e=1700000000", BASE64),
    "nginx": ("https://n.example/a.jpg?md5={}&expires=1700000000", WORD),
    "nginx, st": ("https://n.example/a.jpg?st={}&e=1700000000", "Zr4uQm9xW1tT7aKcYp0LdE"),
    "Apache": ("https://a.example/a.jpg?hash={}&expires=1700000000", WORD),
    "hash alone": ("https://a.example/a.jpg?hash={}", WORD),
    "Fastly": ("https://f.example/a.jpg?token=1700000000_0x{}", HEX),
    "Cloudflare": ("https://c.example/a.jpg?verify=1700000000-{}&exp=1700000000", B64_43),
    "Wowza": ("https://w.example/a.jpg?wowzatokenhash={}", BASE64),
    "validto": ("https://p.example/a.jpg?validfrom=1700000000&validto=1700000001&h={}", BASE64),
    "LinkedIn": ("https://l.example/a?e=1700000000&v=beta&t={}", B64_43),
    "imgix": ("https://i.example/a.jpg?w=1&s={}", HEX),
    "Reddit": ("https://r.example/a.jpg?width=1&auto=webp&s={}", HEX + "0f3a9c5b"),
    "Getty": ("https://g.example/a.jpg?s=612x612&w=0&k=20&c={}=", B64_43),
    "Cloudinary": ("https://c.example/image/upload/s--{}--/w_1/a.jpg", "Zr4uQm9x"),
    "Thumbor": ("https://t.example/{}=/300x200/smart/a.jpg", BASE64[:27]),
    "Discord": ("https://d.example/a.png?ex=65a0b1c2&is=65a0b1c2&hm={}&", HEX64),
    "Dropbox": ("https://d.example/s/a.jpg?rlkey={}&st={}&dl=0", "0f3a9c5b"),
    "Slack": ("https://s.example/a.png?pub_secret={}", "0f3a9c5b"),
    "Patreon": ("https://p.example/a.jpg?token-time=1700000000&token-hash={}%3D", BASE64),
    "Telegram": ("https://t.example/a?auth_date=1700000000&hash={}", HEX64),
    "B2": ("https://b.example/file/a.jpg?Authorization={}", BASE64),
    "Mapbox": ("https://m.example/static/a?access_token=pk.{}", BASE64),
    "sessions": ("https://s.example/a.jpg;jsessionid={}?w=1", HEX),
    "PHP sessions": ("https://s.example/a.jpg?PHPSESSID={}", WORD),
    "an encoded name": ("https://e.example/a.jpg?%74oken={}", WORD),
    "an encoded pair": ("https://e.example/a.jpg?token%3D{}", WORD),
    "a pair encoded twice": ("https://e.example/a.jpg?x=1%2526token%253D{}%2526w%253D1", WORD),
    "a pair after it": ("https://e.example/a.jpg?w=1%26token%3D{}", WORD),
    "HTML": ("https://e.example/a.jpg?w=1&amp;token={}", WORD),
    "JSON": ("https://e.example/a.jpg?w=1\\u0026token={}", WORD),
    "JSON slashes": ("https:\\/\\/me:{}@e.example/a.jpg", WORD),
    "a fragment": ("https://e.example/a.jpg#access_token={}", WORD),
    "user information": ("https://me:{}@e.example/a.jpg", WORD),
    "encoded user information": ("https://me%3A{}%40e.example/a.jpg", WORD),
    "twice encoded user information": ("https://me%253A{}%2540e.example/a.jpg", WORD),
    "user information in a path": ("https://p.example/https%3A%2F%2Fme%3A{}%40e.example/a", WORD),
    "and in a query": ("https://p.example/?u=https%253A%252F%252Fme%253A{}%2540e.example", WORD),
    "in a proxy's path": ("https://p.example/https://me:{}@e.example/a.jpg?w=1", WORD),
}

HARMLESS = (
    "https://upload.wikimedia.example/commons/thumb/a/a9/A.jpg/320px-A.jpg?20130101123456",
    "https://pbs.twimg.example/media/Abc123?format=jpg&name=large",
    "https://i.ytimg.example/vi/abc/hqdefault.jpg?v=5f0b1c2d",
    "https://cdn.shopify.example/s/files/1/0001/a.jpg?v=1700000000&width=600",
    "https://i0.wp.example/a.example/b.jpg?fit=600%2C400&ssl=1",
    "https://m.media.example/images/I/51abc+L._SL500_.jpg",
    "https://static.wix.example/media/a.jpg/v1/fill/w_1,h_2,al_c,q_80/a.jpg",
    "https://images.example/photo-1?ixlib=rb-4.0.3&ixid=M3wxMjA3fDB8&auto=format&w=1080&q=80",
    "https://gravatar.example/avatar/0f3a9c5be1d24786a0b1c2d3e4f50617?s=80&d=identicon&r=g",
    "https://i.pinimg.example/236x/0f/3a/9c/0f3a9c5be1d24786a0b1c2d3e4f50617.jpg",
    "https://live.staticflickr.example/65535/1_0f3a9c5b_b.jpg",
    "https://th.bing.example/th?id=OIP.abc&pid=Api&rs=1&c=7",
    "https://n.example/_next/image?url=%2Fa%20b.jpg&w=640&q=75",
    "https://c.example/cdn-cgi/image/width=80,quality=75/a.jpg",
    "https://e.example/a.jpg?md5=0f3a9c5be1d24786a0b1c2d3e4f50617",
    "https://e.example/a.jpg?st=NJ&e=1&t=12&h=400&s=200x300&c=fill",
    "https://e.example/a.jpg?hash=20240101&version=2.1.0",
    "https://e.example/design=1/neon.jpg?signage=wood&astrosign_id=3",
    "https://e.example/b?keyword=x&monkey=y&turkey=z&hockey=w",
    "https://e.example/@user/a@2x.jpg?mail=a",
    "https://e.example:443/a;w=1,h=2?u=https%3A%2F%2Fb.example%2Fc%3Fw%3D1%26h%3D2",
    "s3://bucket/lang=en/key=1/part-0.parquet",
    "/data/token=1/list.parquet",
)


@pytest.mark.parametrize("form", SIGNED)
def test_what_a_signer_writes_is_redacted_however_it_is_told(form: str) -> None:
    pattern, secret = SIGNED[form]
    url = pattern.replace("{}", secret)
    once = quote(url, safe="")
    for told in (
        *(url, f"https://p.example/?url={once}&w=1", f"https://p.example/{once}"),
        f"https://p.example/?url={quote(once, safe='')}",
    ):
        redacted = redact_url(told)
        assert secret not in redacted, redacted
        assert redact_url(redacted) == redacted
        assert redact_url_column(pa.array([told])).to_pylist() == [redacted]
        line = f"fetching {told} failed"
        assert secret not in redact_text(line)
        assert redact_text_column(pa.array([line])).to_pylist() == [redact_text(line)]
    assert redact_url(f"{url}&w=1&h=22").endswith("&w=1&h=22") or "#" in url or url.endswith("&")


@pytest.mark.parametrize("url", HARMLESS)
def test_what_is_harmless_stays_readable(url: str) -> None:
    assert redact_url(url) == url
    assert redact_text(f"see {url}") == f"see {url}"


PIECES = st.sampled_from(
    [
        *("http://", "//", "/", "\\", "?", "&", ";", "#", "=", ":", "@", "%", "25", "%3D", "%2F"),
        *("%3A", "%40", "%26", "%253D", "%252F", "token", "st", "e=1700000000", "a", "1", "\ud800"),
        *("\t", "REDACTED", "s--", "[", "]", "é", HEX),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_url_is_redacted_once_for_all(url: str) -> None:
    for redact in (redact_url, redact_text):
        once = redact(url)
        assert redact(once) == once


@pytest.mark.parametrize(
    "piece", ["=", "=//", "a=b;", ":", "%3D%2F%2Fa:b", "%25", "1://", "a@", "/", "token=", "a", "%"]
)
def test_a_url_of_any_length_is_redacted_without_recursion_in_linear_time(piece: str) -> None:
    long = piece * (50_000 // len(piece))
    begun = time.process_time()
    for url in (f"https://e.example/?{long}", f"{long} //{long}@", f"http://e:{long}@#{long}"):
        redact_text(url)
        redact_url(url)
    assert time.process_time() - begun < 20
