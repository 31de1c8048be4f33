Feature: Engines
  What getting an engine takes is told before, done once, and undone by one command.

  Scenario: An engine is planned, built, upgraded and gone back from
    Given a repository of engines with the release "b101"
    And a pool "chat" whose engine is built from it
    When corral engines plan is run
    Then no step of it is done
    When corral engines provision is run
    Then it ends well
    When corral engines plan is run
    Then every step but the canary is done
    When "chat" is asked
    Then the answer is 200
    And "chat" runs the release "b101"
    When the repository gets the release "b102"
    And corral engines outdated is run
    Then it says "b102"
    When corral engines upgrade is run
    Then it ends well
    And it says "first 32 greedy tokens"
    And it says "on disk before"
    And "chat" runs the release "b102"
    When corral engines rollback is run
    Then it ends well
    And "chat" runs the release "b101"
    When "chat" is asked
    Then the answer is 200

  Scenario: A release that does not compile harms nobody
    Given a repository of engines with the release "b101"
    And a pool "chat" whose engine is built from it
    When "chat" is asked
    Then the answer is 200
    When the repository gets the release "b102" that does not compile
    And corral engines upgrade is run
    Then it fails and says "does not compile"
    And "chat" runs the release "b101"
    When "chat" is asked
    Then the answer is 200
