"""Small made-up corpora: illnesses with one document per facet; towns, rivers and painters that speak of each other."""

from __future__ import annotations

import json
import random
from pathlib import Path

ILLNESSES = [
    "Harlow syndrome", "Tessaly fever", "Brandt disease", "Ormond palsy", "Kessel dystrophy", "Lunde anemia",
    "Pavic syndrome", "Quillon fever", "Rastov disease", "Salter palsy", "Tarnow dystrophy", "Ulrich anemia",
]  # fmt: skip
PARTS = [
    "skin",
    "liver",
    "kidneys",
    "lungs",
    "joints",
    "muscles",
    "nerves",
    "eyes",
    "bones",
    "heart",
    "spleen",
    "stomach",
]
DRUGS = [
    "lorvatin",
    "merabine",
    "oxaridol",
    "pelitrone",
    "quinavir",
    "rosamid",
    "setopril",
    "tolvexin",
    "ursodine",
    "valotran",
    "wexamil",
    "zylocort",
]
TOWNS = ["Torvik", "Marsund", "Elbrook", "Stanhaven", "Vellmar", "Drosno"]
RIVERS = ["Una River", "Grey Esk", "Lower Tamb", "Olva River", "Sarn Water", "Blue Merrit"]
FAMILIES = ["Kovak", "Lindqvist", "Abara", "Moreau", "Tanaka", "Oyelaran", "Castell", "Brennan", "Ivanova", "Duarte"]
FILLER = (
    "Records from several regions describe the same picture, and specialists usually agree on the details. "
    "Families are advised to keep notes, to ask questions, and to bring earlier letters to every visit."
)


def illnesses() -> list[dict[str, str]]:
    """Return four documents about each illness: what it is, its signs, its causes, its treatment."""
    found = []
    for number, (name, part, drug) in enumerate(zip(ILLNESSES, PARTS, DRUGS)):
        other = PARTS[(number + 5) % len(PARTS)]
        texts = {
            "what": f"{name} is a rare disorder of the {part} that was first described in {1900 + number}. {FILLER}",
            "signs": f"What are the signs and symptoms of {name}? Signs of {name} include pain in the {part} "
            f"and swelling "
            f"of the {other}. Further symptoms and features appear late, such as a {part} rash number {number}. "
            f"{FILLER}",
            "causes": f"{name} is caused by changes in the {drug[:4].upper()}{number} gene. The mutation results in a "
            f"protein that harms the {part}, because the {other} cannot clear it. The cause of {name} in adults is not "
            f"known. {FILLER}",
            "treatment": f"How might {name} be treated? Treatment with {drug} is the usual therapy. Surgery of "
            f"the {part} "
            f"may be needed, and other medications and drugs manage the pain of the {other}. {FILLER}",
        }
        found += [{"_id": f"{name.split()[0].lower()}-{key}", "title": "", "text": text} for key, text in texts.items()]
    return found


def world() -> list[dict[str, str]]:
    """Return towns, rivers and painters; a painter's document names the town that another document describes."""
    rng = random.Random(3)
    found = []
    for town, river in zip(TOWNS, RIVERS):
        trade = rng.choice(["copper smelting", "herring fishing", "glass blowing", "paper milling"])
        found.append({
            "title": town,
            "text": f"{town} is a harbour town at the mouth of the {river}. It lives on {trade}, has a "
            f"cathedral of red "
            f"brick and a tramway museum. A flood in 19{rng.randint(10, 60)} destroyed the old granary quarter, "
            f"and the "
            f"wooden bridge was replaced by a stone one. Every autumn a lantern regatta fills the quays of {town}.",
        })  # fmt: skip
        found.append({
            "title": river,
            "text": f"The {river} rises in a peat bog, runs through a gorge of basalt and reaches the sea at {town}. "
            f"Salmon ladders, three weirs and a disused lock mark its course. Hydrologists measured a discharge of "
            f"{rng.randint(20, 90)} cubic metres each second near the gauge. The {river} freezes in hard winters.",
        })  # fmt: skip
    for number, family in enumerate(FAMILIES):
        town, school = TOWNS[number % len(TOWNS)], f"Velm Academy of {TOWNS[(number + 1) % len(TOWNS)]}"
        found.append({
            "title": f"{rng.choice(['Ada', 'Ines', 'Paul', 'Emil'])} {family}",
            "text": f"This painter of the northern school was born in {town} and trained at the {school}. Early "
            f"canvases "
            f"show orchards and shipyards; later work turned to portraits of weavers in muted ochre. A retrospective "
            f"toured galleries for two years, and critics praised the brushwork, the frames and the humour of number "
            f"{number}. The family archive is kept in {town}.",
        })  # fmt: skip
    return [{"id": f"w{number}", "contents": f"{each['title']}\n{each['text']}"} for number, each in enumerate(found)]


def chinese() -> list[dict[str, str]]:
    """Return short Chinese documents, two about each place."""
    places = ["青云山", "白石湖", "东陵城", "落雁谷", "南溪镇", "玉泉寺", "望海楼", "金沙渡"]
    found = []
    for number, place in enumerate(places):
        other = places[(number + 1) % len(places)]
        found.append(
            f"{place}位于中国南方，始建于明朝{number + 3}年，"
            f"面积约{number * 7 + 20}平方公里。{place}的主要景点包括《{place}图》石刻、"
            f"古桥和碑林。每年春天，游客从{other}乘船来到{place}，观看龙舟比赛。当地特产有茶叶、竹编和米酒，"
            f"深受游客喜爱。"
        )
        found.append(
            f"关于{place}的传说很多。相传古代有一位诗人在{place}写下《{place}赋》，后来流传到{other}。学者认为，"
            f"{place}的地名来自"
            f"山中的云雾。{place}博物馆收藏了{number + 11}件陶器，其中最早的一件出土于{other}附近的遗址，距今约三千年。"
        )
    return [{"text": text} for text in found]


def write(path: Path, lines: list[dict[str, str]]) -> Path:
    """Write records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path
