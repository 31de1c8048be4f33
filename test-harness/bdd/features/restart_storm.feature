Feature: A restart storm
  However many engines are wanted at once, only so many load at the same time, and nobody who waits is forgotten.

  Background:
    Given at most 2 engines load at the same time
    And 6 preloaded pools whose engines load until they are let go

  Scenario: A start of everything
    When Corral runs
    Then 2 engines load and 4 wait for them
    And as the engines are let go one by one, never more than 2 load, and all 6 are ready at last

  Scenario: A request goes before what is only preloaded
    When Corral runs
    Then 2 engines load and 4 wait for them
    When a request waits for the pool that would load last
    And 1 engine is let go
    Then the pool that the request waits for is the next to load
    When all engines are let go
    Then that answer is 200

  Scenario: An outage of all engines at once
    When Corral runs
    And 6 engines are let go
    Then all 6 are ready
    When all engines are killed at once
    Then 2 engines load and 4 wait for them
    And as the engines are let go one by one, never more than 2 load, and all 6 are ready at last
    And every engine is another one than before
