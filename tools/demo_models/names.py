"""Names to copy: real ones, some of them held out from training, and made-up ones."""

from __future__ import annotations

from random import Random


def words(text: str, mark: str | None = None) -> list[str]:
    """Return the text cut at white space, or at this mark."""
    return text.split(mark)


CITIES = [
    *words(
        "Paris London Berlin Madrid Rome Lisbon Vienna Prague Dublin Oslo Stockholm Helsinki Copenhagen "
        "Brussels Amsterdam Athens Warsaw Budapest Zurich Geneva Milan Naples Turin Venice Florence "
        "Barcelona Valencia Seville Porto Lyon Marseille Nice Bordeaux Lille Hamburg Munich Cologne "
        "Dresden Leipzig Bremen Basel Bern Salzburg Graz Krakow Riga Vilnius Tallinn Minsk Kyiv Odesa "
        "Bucharest Sofia Belgrade Zagreb Split Istanbul Ankara Izmir Cairo Alexandria Tunis Algiers "
        "Casablanca Rabat Dakar Accra Lagos Abuja Nairobi Kampala Kigali Addis Harare Lusaka Luanda "
        "Durban Pretoria Tokyo Osaka Kyoto Sapporo Nagoya Seoul Busan Beijing Shanghai Shenzhen Wuhan "
        "Taipei Manila Cebu Hanoi Bangkok Jakarta Bandung Mumbai Delhi Chennai Kolkata Pune Jaipur "
        "Karachi Lahore Dhaka Colombo Kathmandu Tehran Baghdad Amman Beirut Doha Dubai Muscat Riyadh "
        "Tashkent Almaty Tbilisi Yerevan Baku Sydney Melbourne Brisbane Perth Adelaide Hobart Auckland "
        "Wellington Toronto Montreal Vancouver Ottawa Calgary Quebec Boston Chicago Denver Seattle "
        "Portland Austin Dallas Houston Miami Atlanta Detroit Phoenix Memphis Lima Cusco Quito Bogota "
        "Medellin Cali Caracas Santiago Valparaiso Montevideo Rosario Cordoba Recife Salvador Brasilia "
        "Manaus Havana Kingston Nassau Reykjavik Bergen Malmo Aarhus Glasgow Edinburgh Cardiff Belfast "
        "Leeds York Bath Oxford Cambridge Bristol Ghent Bruges Utrecht Rotterdam"
    ),
    *words(
        "New York, New Delhi, Los Angeles, San Francisco, San Diego, Hong Kong, Cape Town, Rio de Janeiro, Buenos Aires, "
        "Tel Aviv, Abu Dhabi, Mexico City, The Hague, Sao Paulo, Saint Petersburg, Las Vegas",
        ", ",
    ),
]
HELD_OUT_CITIES = [
    *words(
        "Toulouse Stuttgart Nuremberg Palermo Bologna Granada Malaga Antwerp Gothenburg Trondheim Gdansk "
        "Bratislava Ljubljana Sarajevo Tirana Marrakesh Kinshasa Johannesburg Hiroshima Fukuoka Nanjing "
        "Hyderabad Islamabad Philadelphia Minneapolis Sacramento Winnipeg Guadalajara Asuncion Liverpool"
    ),
    "San Jose",
    "Kuala Lumpur",
]
PEOPLE = words(
    "Ada Alan Alice Amir Anna Anton Bela Ben Bob Carla Carlos Chen Clara Dan David Diego Dora Elena "
    "Emil Emma Eva Felix Finn Fiona Frank George Grace Hana Hans Helen Hugo Ida Igor Ines Ivan Jack "
    "Jana Jean Joan John Jonas Julia Kai Karl Kate Ken Kira Lara Lea Leo Lin Linus Lisa Louis Lucy "
    "Luis Maja Marco Maria Marta Max Mia Mika Mila Nina Noah Nora Olaf Olga Omar Oscar Otto Paul "
    "Paula Peter Petra Pia Rafael Rita Robert Rosa Ruth Sam Sara Sofia Sven Tara Theo Tim Tina Tom "
    "Uma Vera Victor Wei Yara Yuki Yusuf Zoe"
)
HELD_OUT_PEOPLE = words(
    "Barbara Edsger Margaret Donald Katherine Dennis Radia Niklaus Frances Leslie Hedy Kurt Sophie "
    "Emmy Blaise Henri Lise Srinivasa Mary Isaac"
)
WORDS = words(
    "red blue green yellow black white small large fast slow open closed new old warm cold north south "
    "east west apple pear plum cherry lemon bread cheese water coffee tea cat dog horse bird fish tree "
    "river lake hill road house garden chair table lamp book pen paper stone glass silver gold copper "
    "baker doctor teacher pilot painter farmer writer engineer nurse judge cook driver sailor math "
    "music history art chess tennis football draft ready done busy free spring summer autumn winter"
)

_ONSETS = words("b br c ch d dr f g gr h j k kl l m n p pr qu r s sh st t tr v w y z")
_VOWELS = words("a e i o u ai ea ia io ou")
_ENDS = ["", "", "", "n", "r", "s", "l", "m", "t", "nd", "ck", "x", "rg"]


def made_up(rng: Random) -> str:
    """Return a made-up word with a capital, which can only be copied and not known by heart."""
    count = rng.choice((1, 2, 2, 2, 3, 3))
    word = "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ENDS) for _ in range(count)
    )
    return word.capitalize()


def city(rng: Random) -> str:
    """Return a city to train on: a real one, or a made-up one (of two words at times)."""
    if rng.random() < 0.45:
        return rng.choice(CITIES)
    return f"{made_up(rng)} {made_up(rng)}" if rng.random() < 0.15 else made_up(rng)


def person(rng: Random) -> str:
    """Return a person's name to train on."""
    return rng.choice(PEOPLE) if rng.random() < 0.5 else made_up(rng)
