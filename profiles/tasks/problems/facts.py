"""Facts for the `recall` texts, as tables: capitals, elements, authors, years, currencies."""

# fmt: off
CAPITALS = """Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Iceland:Reykjavik
Ireland:Dublin Portugal:Lisbon Spain:Madrid France:Paris Belgium:Brussels
Netherlands:Amsterdam Germany:Berlin Austria:Vienna Switzerland:Bern Italy:Rome
Greece:Athens Poland:Warsaw Hungary:Budapest Romania:Bucharest Bulgaria:Sofia
Serbia:Belgrade Croatia:Zagreb Slovenia:Ljubljana Slovakia:Bratislava Ukraine:Kyiv
Russia:Moscow Estonia:Tallinn Latvia:Riga Lithuania:Vilnius Turkey:Ankara Egypt:Cairo
Morocco:Rabat Tunisia:Tunis Kenya:Nairobi Ethiopia:Addis_Ababa Ghana:Accra Senegal:Dakar
Nigeria:Abuja Angola:Luanda Zambia:Lusaka Rwanda:Kigali Uganda:Kampala Japan:Tokyo
China:Beijing India:New_Delhi Nepal:Kathmandu Pakistan:Islamabad Vietnam:Hanoi
Thailand:Bangkok Mongolia:Ulaanbaatar Iran:Tehran Iraq:Baghdad Jordan:Amman Lebanon:Beirut
Syria:Damascus Canada:Ottawa Mexico:Mexico_City Cuba:Havana Peru:Lima Chile:Santiago
Argentina:Buenos_Aires Brazil:Brasilia Uruguay:Montevideo Colombia:Bogota Ecuador:Quito
Venezuela:Caracas Australia:Canberra New_Zealand:Wellington Fiji:Suva"""
ELEMENTS = """hydrogen:H:1 helium:He:2 lithium:Li:3 beryllium:Be:4 boron:B:5 carbon:C:6 nitrogen:N:7
oxygen:O:8 fluorine:F:9 neon:Ne:10 sodium:Na:11 magnesium:Mg:12 aluminium:Al:13
silicon:Si:14 phosphorus:P:15 sulfur:S:16 chlorine:Cl:17 argon:Ar:18 potassium:K:19
calcium:Ca:20 scandium:Sc:21 titanium:Ti:22 vanadium:V:23 chromium:Cr:24 manganese:Mn:25
iron:Fe:26 cobalt:Co:27 nickel:Ni:28 copper:Cu:29 zinc:Zn:30 gallium:Ga:31 germanium:Ge:32
arsenic:As:33 selenium:Se:34 bromine:Br:35 krypton:Kr:36 silver:Ag:47 tin:Sn:50
iodine:I:53 xenon:Xe:54 tungsten:W:74 platinum:Pt:78 gold:Au:79 mercury:Hg:80 lead:Pb:82
uranium:U:92"""
AUTHORS = """Hamlet:William_Shakespeare Don_Quixote:Miguel_de_Cervantes
Faust:Johann_Wolfgang_von_Goethe War_and_Peace:Leo_Tolstoy
Crime_and_Punishment:Fyodor_Dostoevsky Emma:Jane_Austen Great_Expectations:Charles_Dickens
Jane_Eyre:Charlotte_Bronte Wuthering_Heights:Emily_Bronte Frankenstein:Mary_Shelley
Dracula:Bram_Stoker Ulysses:James_Joyce Moby-Dick:Herman_Melville Middlemarch:George_Eliot
Candide:Voltaire Germinal:Emile_Zola Madame_Bovary:Gustave_Flaubert The_Trial:Franz_Kafka
Buddenbrooks:Thomas_Mann The_Divine_Comedy:Dante_Alighieri Robinson_Crusoe:Daniel_Defoe
Gulliver's_Travels:Jonathan_Swift Walden:Henry_David_Thoreau The_Time_Machine:H._G._Wells
Mrs_Dalloway:Virginia_Woolf The_Cherry_Orchard:Anton_Chekhov A_Doll's_House:Henrik_Ibsen
Pygmalion:George_Bernard_Shaw The_Jungle_Book:Rudyard_Kipling"""
YEARS = """the_French_Revolution_began:1789 the_Berlin_Wall_fell:1989 the_First_World_War_began:1914
the_Second_World_War_ended:1945 Columbus_first_reached_America:1492
people_first_landed_on_the_Moon:1969 the_Titanic_sank:1912
the_United_States_declared_independence:1776 the_Battle_of_Hastings_was_fought:1066
the_Battle_of_Waterloo_was_fought:1815 the_Great_Fire_of_London_broke_out:1666
Constantinople_fell_to_the_Ottomans:1453 Darwin_published_On_the_Origin_of_Species:1859
the_Suez_Canal_opened:1869 Magna_Carta_was_sealed:1215 the_Eiffel_Tower_was_completed:1889
penicillin_was_discovered_by_Fleming:1928 Sputnik_1_was_launched:1957
India_became_independent:1947 the_first_modern_Olympic_Games_were_held:1896
the_Panama_Canal_opened:1914 the_Soviet_Union_was_dissolved:1991
Mount_Everest_was_first_climbed:1953"""
CURRENCIES = """Japan:yen India:rupee China:renminbi Russia:rouble Poland:zloty Sweden:krona Norway:krone
Hungary:forint Turkey:lira Mexico:peso Brazil:real South_Africa:rand Thailand:baht
Vietnam:dong South_Korea:won Israel:shekel Ukraine:hryvnia Romania:leu
Kenya:shilling Nigeria:naira Ghana:cedi Peru:sol Bangladesh:taka Switzerland:franc
Malaysia:ringgit Indonesia:rupiah"""
# fmt: on


def table(text: str) -> list[tuple[str, ...]]:
    """Entries of a table: fields between colons, underscores for spaces."""
    return [tuple(field.replace("_", " ") for field in entry.split(":")) for entry in text.split()]
