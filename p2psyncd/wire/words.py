"""The words of a pairing code: two lists of 256, so that two words carry 16 bits.

The first word comes from EVEN (what something is like), the second from ODD (a thing or an animal), as in
the PGP word list, so a word out of place is noticed. No two words differ in one letter only, and
no two long ones begin alike: they are read aloud across a room. The order is part of nothing: a code
travels as its words, so a list may be changed without breaking older devices.
"""

from __future__ import annotations

__all__ = ["EVEN", "ODD", "WORDS_PER_LIST"]

WORDS_PER_LIST = 256

EVEN_TEXT = """
    acid agile alpine amber apple arctic ash autumn azure bamboo basic bitter black blond blue bold
    boxed brave brick brief bright broad bronze brown bumpy busy calm candid canvas carved casual
    cedar cherry chilly chrome citrus civic clear clever cloudy coal cobalt comic common copper
    cotton cozy cream crisp cubic curly daily damp dapper dark dizzy double dusty eager early east
    ebony eighth empty equal even exact faint fancy fifth final fine firm flat fluffy foggy formal
    free fresh frosty frozen funny fuzzy gentle giant ginger glad glass global glossy golden grand
    grape grassy gray green gritty half handy happy hasty hazel heavy hidden high hollow honest
    humble icy ideal indigo inland inner iron ivory jade jolly juicy jumbo junior keen khaki kind
    large late lavish lazy lean left lemon level light lilac linen liquid little lively local lofty
    lone loud lucky lunar magic major maple marble maroon mellow merry metal mild minor minty mixed
    muddy navy neat neon new ninth noble noisy north oak ocean odd olive only open outer oval pale
    paper peach pearl pink plaid plum plush polar proud quick quiet rapid rare raw ready red regal
    rich rigid ripe rocky roomy rose rough round royal ruby rural safe satin shady sharp shiny short
    shy silk sixth sleek slim slow small smart snowy soft solid sonic south spicy steel stiff stone
    super sweet swift tall tame tangy teal tenth thick thin third tidy topaz total true ultra upper
    urban usual vital vivid warm waxy west white whole wide windy witty young zesty zippy
"""

ODD_TEXT = """
    acorn actor airport album almond anchor ankle ant antler apron arch arena armor artist atlas
    attic avocado badge bagel baker balcony ballet banana banjo barley barn basket bat beacon beaver
    bench bicycle bison blanket blossom bonnet book border bottle boulder bowl branch bridge broom
    bubble bucket buffalo bugle button cabin cactus camel canal canoe canyon captain carpet carrot
    castle cave cello chapel cheese chimney circus cliff clock coach cobra coconut coffee collar
    comet compass condor cookie corner cousin cow cradle crater cricket crocus crystal cup curtain
    cushion dolphin donkey door dragon drawer drum duck eagle easel echo elbow emu engine fabric
    falcon farmer fence fiddle field finch fish flute forest fork fossil fox frog furnace galaxy
    garden garlic gazelle gecko giraffe glacier glove goat goose gorilla guitar hammer harbor hawk
    hedge helmet heron hippo horse hotel hummus iguana insect jacket jaguar jam jewel jigsaw judge
    jungle kayak kettle key kite kitten koala ladder ladle lagoon laptop letter lion lizard llama
    locket lotus lunch lynx magnet mango market meadow melon mirror moon mosaic motor mouse muffin
    museum napkin needle noodle nutmeg office onion opera organ oyster paddle palace panda pantry
    parade pebble pencil pepper piano picnic pigeon pilot pirate planet poet pond porch potato
    puppet puzzle rabbit radio raft raven rhino ribbon river robin robot sailor salad salmon sandal
    saucer school sheep shelf shovel shrimp sketch skunk sled snail spider spoon statue summit swan
    teapot temple tennis tiger tomato tower train tulip tunnel turkey turtle valley vase waffle
    wagon walrus water wheel wolf wombat yacht yogurt zebra
"""

EVEN: tuple[str, ...] = tuple(EVEN_TEXT.split())
ODD: tuple[str, ...] = tuple(ODD_TEXT.split())
