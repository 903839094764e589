"""Words, names and field names from which the synthetic records are made."""

from __future__ import annotations

from typing import Final

WORDS_BY_KIND: Final[dict[str, tuple[str, ...]]] = {
    "country": (
        *("Russia", "France", "Germany", "Nepal", "Kenya", "Japan", "Peru", "Chile", "Norway", "Sweden", "Austria"),
        *("Switzerland", "Italy", "Spain", "Portugal", "Poland", "Greece", "Turkey", "Egypt", "Morocco", "India"),
        *("China", "Mongolia", "Vietnam", "Thailand", "Brazil", "Argentina", "Mexico", "Canada", "Iceland", "Ireland"),
        *("Finland", "Denmark", "Estonia", "Latvia", "Hungary", "Romania", "Georgia", "Tanzania", "Ethiopia", "Ghana"),
        *("New Zealand", "South Africa", "Costa Rica", "United States", "United Kingdom", "Sri Lanka", "Saudi Arabia"),
    ),
    "place": (
        *("Paris", "Berlin", "Madrid", "Vienna", "Oslo", "Lisbon", "Prague", "Warsaw", "Athens", "Cairo", "Nairobi"),
        *("Tokyo", "Kyoto", "Lima", "Bogota", "Quito", "Boston", "Chicago", "Denver", "Austin", "Seattle", "Toronto"),
        *("New York", "San Diego", "Los Angeles", "Cape Town", "Hong Kong", "Zürich", "München", "São Paulo", "Málaga"),
        *("Elbrus", "Everest", "Denali", "Aconcagua", "Mont Blanc", "Matterhorn", "Kilimanjaro", "Olympus", "Fuji"),
        *("Caucasus", "Alps", "Andes", "Himalaya", "Rockies", "Urals", "Pyrenees", "Atlas", "Karakoram", "Danube"),
        *("Volga", "Rhine", "Seine", "Amazon", "Nile", "Loire", "Thames", "Lake Como", "Black Forest", "Red Sea"),
    ),
    "person": (
        *("Anna Weber", "John Smith", "Maria Garcia", "Peter Novak", "Li Wei", "Sofia Rossi", "Omar Haddad"),
        *("Emma Larsen", "Lucas Martin", "Nina Petrova", "David Cohen", "Sara Lind", "Tom Baker", "Yuki Tanaka"),
        *("Ivan Orlov", "Clara Vogel", "Hugo Blanc", "Ada Lovelace", "Alan Turing", "Grace Hopper", "Max Planck"),
        *("Marie Curie", "Isaac Newton", "Niels Bohr", "Olga", "Pedro", "Julia", "Felix", "Martha", "Oscar", "Ruth"),
        *("José Álvarez", "Zoë Müller", "Renée", "Björn", "Dr. Klein", "Mr. Jones", "A. Silva", "R. Chen", "K. Osei"),
    ),
    "colour": (
        *("red", "green", "blue", "yellow", "orange", "purple", "black", "white", "grey", "brown", "pink", "teal"),
        *("violet", "silver", "gold", "navy", "beige", "dark green", "light blue", "turquoise", "crimson", "olive"),
    ),
    "status": (
        *("open", "closed", "pending", "active", "inactive", "done", "failed", "shipped", "cancelled", "in progress"),
        *("delivered", "paid", "overdue", "draft", "approved", "rejected", "on hold", "archived", "new", "blocked"),
        *("high", "low", "medium", "urgent", "critical", "normal", "yes", "no", "true", "false", "none", "unknown"),
    ),
    "product": (
        *("Laptop", "Phone", "Tablet", "Camera", "Printer", "Desk Lamp", "Office Chair", "Keyboard", "Mouse"),
        *("Monitor", "Router", "Backpack", "Water Bottle", "Coffee Maker", "Toaster", "Bicycle", "Helmet", "Tent"),
        *("Falcon 9", "Galaxy S10", "ThinkPad X1", "Model 3", "Airbus A320", "Boeing 747", "Pixel 8", "Type-C Cable"),
    ),
    "month": (
        *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October"),
        *("November", "December", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    ),
    "word": (
        *("river", "stone", "apple", "winter", "garden", "paper", "window", "silver", "market", "engine", "bridge"),
        *("forest", "island", "candle", "summer", "planet", "rocket", "violin", "castle", "harbor", "desert", "cotton"),
        *("butter", "cheese", "pepper", "lemon", "cherry", "banana", "tomato", "bread", "sugar", "honey", "coffee"),
        *("eagle", "tiger", "zebra", "horse", "whale", "parrot", "falcon", "rabbit", "turtle", "spider", "wolf"),
        *("music", "poetry", "history", "physics", "biology", "chemistry", "law", "art", "sports", "travel", "finance"),
        *("steel", "copper", "glass", "wood", "leather", "granite", "basalt", "marble", "plastic", "iron", "wool"),
        *("north", "south", "east", "west", "upper", "lower", "left", "right", "central", "inner", "outer", "small"),
        *("large", "quick", "slow", "bright", "quiet", "heavy", "simple", "modern", "ancient", "public", "private"),
        *("standard", "express", "premium", "basic", "English", "French", "Spanish", "Latin", "Arabic", "Hindi"),
        *("machine", "network", "server", "cluster", "worker", "queue", "message", "token", "cache", "memory", "disk"),
    ),
}
"""Values by kind; an entry is held out from training, or not, as a whole."""

FIELDS_BY_KIND: Final[dict[str, tuple[str, ...]]] = {
    "number": (
        *("height", "age", "year", "population", "length", "width", "depth", "weight", "price", "quantity", "stock"),
        *("floor", "room", "first ascent", "founded", "pages", "seats", "speed", "score", "points", "rank", "area"),
        *("elevation", "capacity", "distance", "duration", "salary", "budget", "zip", "port", "order number", "total"),
        *("invoice number", "max_speed", "num_users", "user_id", "retry_count", "line count", "born", "died", "count"),
        *("year of birth", "number of rooms", "opened", "built", "amount", "cost", "size", "volume", "power", "limit"),
        *("postal code", "house number", "tax", "discount", "balance", "level", "votes", "employees", "range_km"),
    ),
    "country": ("country", "home country", "origin", "nationality", "made in", "destination", "birthplace", "region"),
    "place": (
        *("city", "town", "capital", "location", "range", "mountain", "river", "address", "birth_place", "venue"),
        *("hometown", "office", "departure", "arrival", "headquarters", "nearest town", "warehouse", "place"),
    ),
    "person": (
        *("name", "author", "owner", "manager", "customer", "first name", "last name", "contact", "created_by"),
        *("assignee", "director", "teacher", "chief editor", "first climber", "inventor", "guest", "user", "reviewer"),
        *("customer name", "signed by", "driver", "doctor", "patient", "sender", "recipient", "contact person"),
    ),
    "colour": ("color", "colour", "eye color", "paint", "background_color", "team colour", "hair color", "flag"),
    "status": (
        *("status", "state", "priority", "order status", "payment_status", "result", "severity", "visible", "enabled"),
        *("urgency", "in stock", "quality", "condition", "risk", "stage", "verified"),
    ),
    "product": ("product", "item", "model", "device", "title", "product name", "vehicle", "part", "equipment", "gift"),
    "month": ("month", "day", "delivery day", "birth month", "season", "weekday", "start month", "due", "best month"),
    "word": (
        *("category", "material", "subject", "type", "language", "animal", "keyword", "group", "genre", "label"),
        *("department", "shape", "theme", "topic", "kind", "class", "food", "direction", "plan", "hobby", "tag"),
        *("main crop", "favorite drink", "rock type", "mode", "format", "sector", "profession", "role", "team"),
    ),
    "code": (
        *("id", "code", "serial number", "sku", "order_id", "flight", "ticket", "reference", "part number", "version"),
        *("license plate", "passport", "tracking code", "build", "hash", "gate", "phone", "email", "host", "file"),
        *("customer id", "session_id", "iban", "isbn", "room code", "password", "api key", "ip address", "url"),
    ),
    "date": (
        *("date", "start date", "end date", "created_at", "updated_at", "birthday", "deadline", "due date", "time"),
        *("order date", "release date", "last login", "expires", "departure time", "first flight", "checked on"),
    ),
    "phrase": ("comment", "note", "description", "remark", "motto", "summary", "reason", "full title", "notes"),
}
"""Field names by the kind of value they usually hold."""

FILLER_WORDS: Final[tuple[str, ...]] = (
    *("the", "a", "this", "entry", "was", "is", "checked", "by", "our", "team", "last", "week", "and", "of", "with"),
    *("please", "see", "also", "more", "details", "follow", "here", "in", "for", "on", "report", "then", "we", "have"),
    *("it", "some", "visitors", "come", "every", "day", "data", "collected", "from", "several", "sources", "note"),
)
"""Words of the sentences between the fields."""
