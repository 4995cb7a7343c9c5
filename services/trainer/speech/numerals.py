"""Russian cardinals in words, so that "25" and "двадцать пять" are the same answer."""

_UNITS = ("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять")
_TEENS = (
    "десять", "одиннадцать", "двенадцать", "тринадцать", "четырнадцать",
    "пятнадцать", "шестнадцать", "семнадцать", "восемнадцать", "девятнадцать",
)  # fmt: skip
_TENS = ("двадцать", "тридцать", "сорок", "пятьдесят", "шестьдесят", "семьдесят", "восемьдесят", "девяносто")
_HUNDREDS = ("сто", "двести", "триста", "четыреста", "пятьсот", "шестьсот", "семьсот", "восемьсот", "девятьсот")
# One, two to four, five and more; thousand is feminine.
_SCALES = (
    ("", "", ""),
    ("тысяча", "тысячи", "тысяч"),
    ("миллион", "миллиона", "миллионов"),
    ("миллиард", "миллиарда", "миллиардов"),
)
LIMIT = 10 ** (3 * len(_SCALES))


def cardinal(number: int) -> str:
    """The nominative masculine cardinal of 0 up to, but not including, ``LIMIT``.

    Raises:
        ValueError: outside that range.
    """
    if not 0 <= number < LIMIT:
        raise ValueError(f"{number} is outside 0 to {LIMIT - 1}")
    if number == 0:
        return _UNITS[0]
    words: list[str] = []
    for power in reversed(range(len(_SCALES))):
        group = number // 1000**power % 1000
        if group:
            words += _below_thousand(group, feminine=power == 1)
            if power:
                words.append(_SCALES[power][_plural(group)])
    return " ".join(words)


def _below_thousand(number: int, *, feminine: bool) -> list[str]:
    words = [_HUNDREDS[number // 100 - 1]] if number >= 100 else []
    rest = number % 100
    if 10 <= rest < 20:
        return [*words, _TEENS[rest - 10]]
    if rest >= 20:
        words.append(_TENS[rest // 10 - 2])
    unit = rest % 10
    if unit:
        words.append({1: "одна", 2: "две"}.get(unit, _UNITS[unit]) if feminine else _UNITS[unit])
    return words


def _plural(number: int) -> int:
    if 11 <= number % 100 <= 14:
        return 2
    return {1: 0, 2: 1, 3: 1, 4: 1}.get(number % 10, 2)
