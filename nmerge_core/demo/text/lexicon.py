"""The English–Spanish lexicon of the translation task; a one-to-one dictionary, so that both directions are exact."""

# English, Spanish, gender. English and Spanish plurals follow rules unless given after a slash.
NOUNS: dict[str, str] = {
    "person": """man/men hombre m, woman/women mujer f, boy chico m, girl chica f, teacher maestro m, nurse enfermera
        f, doctor médico m, friend amigo m, neighbour vecino m, student estudiante m, child/children niño m,
        king rey m, queen reina f, sister hermana f, brother hermano m, grandmother abuela f, grandfather
        abuelo m, farmer granjero m""",
    "animal": """dog perro m, cat gato m, horse caballo m, cow vaca f, bird pájaro m, mouse/mice ratón m, sheep/sheep
        oveja f, lion león m, rabbit conejo m, bear oso m, spider araña f, pig cerdo m""",
    "food": """apple manzana f, orange naranja f, egg huevo m, cake pastel m, potato/potatoes patata f, lemon limón
        m, cookie galleta f, tomato/tomatoes tomate m""",
    "thing": """book libro m, table mesa f, chair silla f, shirt camisa f, shoe zapato m, hat sombrero m, key llave
        f, box caja f, bottle botella f, knife/knives cuchillo m, plate plato m, glass vaso m, bag bolsa f,
        car coche m, ball pelota f, pencil lápiz m, flower flor f, coat abrigo m""",
    "text": "letter carta f, story cuento m, song canción f, word palabra f",
    "place": """house casa f, kitchen cocina f, garden jardín m, school escuela f, city ciudad f, market mercado m,
        street calle f, river río m, forest bosque m, beach playa f, shop tienda f, park parque m, mountain
        montaña f, village pueblo m, room cuarto m""",
}

# English, Spanish masculine singular. "ser" for lasting qualities, "estar" for states.
ADJECTIVES: dict[str, str] = {
    "person ser": """tall alto, thin delgado, intelligent inteligente, kind amable, poor pobre, rich rico,
        brave valiente""",
    "person estar": "tired cansado, happy contento, angry enojado, ill enfermo",
    "thing ser": """red rojo, white blanco, black negro, green verde, yellow amarillo, blue azul, big grande, small
        pequeño, new nuevo, old viejo, expensive caro, heavy pesado, long largo, short corto, pretty bonito""",
    "thing estar": "clean limpio, dirty sucio, broken roto, empty vacío, full lleno, cold frío",
}

# English base, third person and past; Spanish infinitive and, where the stressed stem changes, that stem.
TRANSITIVE: dict[str, str] = {
    "food": "eat eats ate comer, cook cooks cooked cocinar, taste tastes tasted probar prueb",
    "thing": """buy buys bought comprar, sell sells sold vender, carry carries carried llevar, clean cleans cleaned
        limpiar, wash washes washed lavar, use uses used usar, need needs needed necesitar, find finds found
        encontrar encuentr, lose loses lost perder pierd, break breaks broke romper, show shows showed
        mostrar muestr, touch touches touched tocar""",
    "text": """write writes wrote escribir, learn learns learned aprender, study studies studied estudiar,
        understand understands understood comprender""",
    "person": """help helps helped ayudar, call calls called llamar, visit visits visited visitar, teach teaches
        taught enseñar""",
}
INTRANSITIVE = """walk walks walked caminar, run runs ran correr, swim swims swam nadar, live lives lived vivir, work
    works worked trabajar, travel travels traveled viajar, dance dances danced bailar, sing sings sang
    cantar, speak speaks spoke hablar"""

# English for I/you/we/they and he; Spanish for I, you, he, we, they.
MODALS = {
    ("want to", "wants to"): "quiero quieres quiere queremos quieren",
    ("can", "can"): "puedo puedes puede podemos pueden",
    ("must", "must"): "debo debes debe debemos deben",
    ("are going to", "is going to"): "voy+a vas+a va+a vamos+a van+a",
    ("know how to", "knows how to"): "sé sabes sabe sabemos saben",
    ("prefer to", "prefers to"): "prefiero prefieres prefiere preferimos prefieren",
}

PREPOSITIONS = {
    "in": "en", "near": "cerca de", "behind": "detrás de", "in front of": "delante de", "far from": "lejos de",
}  # fmt: skip
PRESENT_TIMES = {
    "today": "hoy", "now": "ahora", "every day": "todos los días", "in the morning": "por la mañana",
    "on Mondays": "los lunes", "often": "a menudo", "at night": "por la noche", "in summer": "en verano",
}  # fmt: skip
PAST_TIMES = {
    "yesterday": "ayer", "last night": "anoche", "last week": "la semana pasada", "two days ago": "hace dos días",
    "last year": "el año pasado", "this morning": "esta mañana",
}  # fmt: skip
CONJUNCTIONS = {"and": "y", "but": "pero", "because": "porque", "when": "cuando", "while": "mientras"}
# Spanish masculine singular, feminine singular; masculine plural, feminine plural.
DETERMINERS = {
    "singular": {"the": "el la", "a": "un una", "this": "este esta", "that": "ese esa", "my": "mi mi",
                 "our": "nuestro nuestra", "your": "tu tu", "another": "otro otra", "every": "cada cada"},
    "plural": {"the": "los las", "these": "estos estas", "those": "esos esas", "my": "mis mis",
               "our": "nuestros nuestras", "your": "tus tus", "two": "dos dos", "three": "tres tres",
               "five": "cinco cinco", "many": "muchos muchas", "some": "algunos algunas", "ten": "diez diez"},
}  # fmt: skip
# English, Spanish (dropped where the verb's ending says it), grammatical person, feminine.
PRONOUNS = (("I", "", 0, False), ("you", "", 1, False), ("he", "él", 2, False), ("she", "ella", 2, True),
            ("we", "", 3, False), ("they", "ellos", 4, False))  # fmt: skip
