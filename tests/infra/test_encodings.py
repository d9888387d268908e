"""Encodings are told from enough words, also where some are damaged, and never as another one."""

import random
from itertools import product

import pytest

from infra.encodings import hint, tell, western

LANGUAGES = {
    "Синий Рубашка Женская Мужская Красный Платье Куртка чёрный Белый Обувь кроссовки Сумка зелёный Лето Зима": (
        *("cp1251", "koi8-r", "iso8859-5", "cp866", "mac-cyrillic"),
    ),
    "青いシャツ 赤 ワンピース 黒いジャケット レディース メンズ 白 靴 スニーカー バッグ 緑 夏 冬 カジュアル": (
        *("cp932", "euc_jp"),
    ),
    "파란색 셔츠 여성 남성 빨간색 드레스 재킷 검정 흰색 신발 운동화 가방 초록 여름 겨울": ("cp949",),
    "蓝色 衬衫 女装 男装 红色 连衣裙 夹克 黑色 白色 鞋子 运动鞋 手提包 绿色 夏季 冬季 休闲": ("gb18030",),
    "藍色 襯衫 女裝 男裝 紅色 連衣裙 夾克 黑色 白色 鞋子 運動鞋 手提包 綠色 夏季 冬季 休閒": ("big5",),
    "Μπλε πουκάμισο Γυναικεία Ανδρικά Κόκκινο Φόρεμα Μπουφάν Μαύρο Λευκό παπούτσια": ("cp1253", "iso8859-7"),
    "Różowy Żółty Jaśniejszy Brązowy Spódnica Płaszcz Zieleń Męski świąteczny łososiowy Białe": (
        *("cp1250", "iso8859-2", "cp852"),
    ),
    "Kék Női Férfi Fehér cipő zöld nyári téli rózsaszín őszi táska": ("cp1250",),
    "Gömlek Kadın Kırmızı yeşil çanta kış günlük şort İnce ayakkabı": ("cp1254", "iso8859-9"),
    "כחול חולצה נשים גברים אדום שמלה שחור לבן נעליים תיק ירוק קיץ": ("cp1255",),
    "أزرق قميص نسائي رجالي أحمر فستان أسود أبيض حذاء حقيبة أخضر صيف": ("cp1256",),
    "Mėlyna Marškiniai Moteriška Vyriški Suknelė žalias vasarinė švarkas": ("cp1257",),
    "Été crème foncé écru Beauté rosé Légère Forêt brodé Déco": ("cp1252", "cp850", "mac-roman"),
    "Größe Grün Weiß Gürtel Mäntel Röcke Öko Übergang süß für": ("cp1252", "cp850", "cp437", "mac-roman"),
}


def text(words: list[bytes], codec: str) -> list[str]:
    return [word.decode(codec, "replace") for word in words]


def told(n: int, damaged: int) -> tuple[int, int, int]:
    """How many samples of `n` words are told rightly, not at all, and as another encoding."""
    draw, right, wrong, total = random.Random(n), 0, 0, 0
    for words, codecs in LANGUAGES.items():
        pairs = [f"{first}-{second}" for first, second in product(words.split(), repeat=2)]
        for codec in codecs:
            chosen = [pair.encode(codec) for pair in draw.sample(pairs, n)]
            found = tell([*chosen, *[bytes(draw.choices(range(0x80, 0xA0), k=2)) for _ in range(damaged)]])
            total += 1
            right += found.certain and text(chosen, found.encoding) == text(chosen, codec)
            wrong += found.certain and text(chosen, found.encoding) != text(chosen, codec)
    return right, total - right - wrong, wrong


@pytest.mark.parametrize("damaged", [0, 1, 2])
@pytest.mark.parametrize("n", [20, 50])
def test_twenty_words_tell_nearly_every_encoding_and_none_as_another(n, damaged):
    right, not_told, wrong = told(n, damaged)
    assert wrong == 0
    assert right >= 0.8 * (right + not_told)


def test_a_few_words_are_certain_of_nothing():
    assert [told(n, 0)[::2] for n in (1, 3, 8)] == [(0, 0)] * 3


def test_few_western_words_are_taken_for_what_they_most_likely_are():
    for words in ("Café", "Écru", "Café Größe", "crème brûlée"):
        assert tell([word.encode("cp1252") for word in words.split() if not word.isascii()]).western, words
    for words, codec in (
        ("Синий", "cp1251"),
        ("şort", "cp1254"),
        ("žalias", "cp1257"),
        ("青", "cp932"),
    ):
        assert not tell([words.encode(codec)]).western, words


def test_what_is_no_text_in_any_encoding_is_not_told():
    draw = random.Random(1)
    assert not tell({bytes(draw.choices(range(128, 256), k=9)) for _ in range(50)}).certain
    assert not tell([]).encoding


def test_single_lines_are_western_or_hinted_at():
    assert western("Café".encode("cp1252")) == "Café"
    assert western("Синий".encode("cp1251")) is None
    assert hint("Синий".encode("cp1251")) == "'Синий' if it is Windows-1251"
    assert hint(b"\xa9") == repr(b"\xa9")
